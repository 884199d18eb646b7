// Rows of several lengths, in the order of timeline.py. After cell.cuh.

// Row n has the steps before lengths[n] (all, where `lengths` is null); they are taken from its last one if `reverse`.
// Where there are no lengths, whoever has strides reverses them.
struct Timeline {
    const long long* lengths;
    int reverse;

    __device__ bool valid(long long t, unsigned n) const { return !lengths || t < lengths[n]; }
    // Where the step that is taken as number t stands; what is behind the length stays where it is.
    __device__ long long place(long long t, unsigned n) const {
        return lengths && reverse && t < lengths[n] ? lengths[n] - 1 - t : t;
    }
};
