"""The emulator of CUDA on this processor: blocks that run at once, their memory, and what it finds."""

import ctypes

import numpy as np
import pytest
from cuda_on_cpu import Kernels

SOURCE = """
// For the others, once.
static void give_way() {
    bool given = false;
    wait_until([&] { return std::exchange(given, true); });
}

// Each block adds its number to what the one before it wrote, once it has.
__global__ void ring(int* sums, volatile int* turn, int first) {
    int* own = reinterpret_cast<int*>(shared_memory());
    if (threadIdx.x == 33) {
        wait_until([&] { return *turn == int(blockIdx.x) || int(blockIdx.x) == first; });
        *own = blockIdx.x;
    }
    __syncthreads();
    if (threadIdx.x == 0) sums[blockIdx.x] = *own + (blockIdx.x ? sums[blockIdx.x - 1] : 0);
    __syncthreads();
    if (threadIdx.x == 40) *turn = *turn + 1;
}

// A number for each block's shared memory, as it is before anybody has written there, and after all have.
__global__ void memories(int* found) {
    int* own = reinterpret_cast<int*>(shared_memory());
    if (threadIdx.x == 0) found[2 * blockIdx.x] = own[99], own[99] = blockIdx.x;
    give_way();
    __syncthreads();
    if (threadIdx.x == 32) found[2 * blockIdx.x + 1] = own[99] + 1000 * gridDim.x;
}

// The second half should wait for the first one, and does not.
__global__ void race(int* value) {
    if (threadIdx.x / 32 == 0) *value = 1;
    give_way();
    if (threadIdx.x == 32) value[1] = *value;
}

__global__ void unmet() {
    if (threadIdx.x != 5) __syncthreads();
    else wait_until([] { return false; });
}
"""
SEEDS = range(20)


@pytest.fixture(scope="module")
def kernels(request, tmp_path_factory):
    request.getfixturevalue("kernels_on_cpu")  # which says what is missing
    return Kernels(SOURCE, ["ring", "memories", "race", "unmet"], tmp_path_factory.mktemp("emulator"))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_wait_for_each_other(kernels, seed):
    sums, turn = np.zeros(7, np.int32), np.zeros(1, np.int32)
    kernels.launch("ring", (7,), 64, [pointer(sums), pointer(turn), ctypes.c_int(0)], together=7, shared=4, seed=seed)
    assert sums.tolist() == np.cumsum(range(7)).tolist()


def test_blocks_that_run_one_after_the_other_wait_in_vain(kernels):
    sums, turn = np.zeros(7, np.int32), np.ones(1, np.int32)
    with pytest.raises(AssertionError, match="ring: threads wait for others in vain"):
        kernels.launch("ring", (7,), 64, [pointer(sums), pointer(turn), ctypes.c_int(-1)], together=1, shared=4)


@pytest.mark.parametrize("together", [1, 2, 6])
def test_each_block_has_memory_of_its_own(kernels, together):
    found = np.zeros((6, 2), np.int32)
    kernels.launch("memories", (3, 2), 64, [pointer(found)], together=together, shared=400, seed=1)
    # blockIdx.x counts columns: the second row of blocks came after the first one, or with it.
    assert found[:3].tolist() == [[-1, 3000 + k] for k in range(3)]


def test_a_race_is_seen_with_some_seed(kernels):
    found = set()
    for seed in SEEDS:
        values = np.zeros(2, np.int32)
        kernels.launch("race", (1,), 64, [pointer(values)], seed=seed)
        found.add(int(values[1]))
    assert found == {0, 1}


@pytest.mark.parametrize("seed", [0, 3])
def test_a_deadlock_is_an_error(kernels, seed):
    with pytest.raises(AssertionError, match="unmet: threads wait for others in vain"):
        kernels.launch("unmet", (2,), 64, [], together=2, seed=seed)
    kernels.launch("memories", (1,), 64, [pointer(np.zeros(2, np.int32))], shared=400)
