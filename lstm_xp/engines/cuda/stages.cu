// What stages one and three multiply, put in order: a block for each row, of step t and batch row n. After cell.cuh and
// timeline.cuh.
//
//   S  what the caller's arrays are stored as: float16, bfloat16, float, double
//   R  S, or what is computed with
//   A  what is computed with: float for the half types, else S itself; or, for ones, R

// rows (T*N, D) is x (T, N, D), which has any strides, and zeros behind the lengths; each row of a (T*N, columns) is the
// bias, or ones where it is null. Either of rows and a may be null, and is left alone then.
template <typename S, typename R, typename A>
__global__ void arrange(
    const S* x, long long by_step, long long by_row, long long by_feature, R* rows, const S* bias, long long by_column,
    A* a, const long long* lengths, int reverse, unsigned N, unsigned D, unsigned columns) {
    const unsigned long long row = blockIdx.x, t = row / N, n = row % N;
    const Timeline timeline = {lengths, reverse};
    const bool valid = timeline.valid(t, n);
    const S* from = x + timeline.place(t, n) * by_step + n * by_row;
    for (unsigned d = threadIdx.x; rows && d < D; d += blockDim.x) {
        R& to = rows[row * D + d];
        if (!valid) to = R();
        else if constexpr (sizeof(R) == sizeof(S)) to = from[d * by_feature];
        else to = widen(from[d * by_feature]);
    }
    for (unsigned j = threadIdx.x; a && j < columns; j += blockDim.x)
        narrow(bias ? widen(bias[j * by_column]) : 1, a[row * columns + j]);
}
