// What one training step leaves for later reading: ops.record_step states the contract. One block, whose first thread does it.
//
// record (capacity + 1, 2): row 0 begins with 1, and 0 from the first loss or norm on that is not finite; row 1 + i = loss, norm of step i.
typedef REAL real;

extern "C" __global__ void record_step(real* record, const real* loss, const real* norm, int i) {
    if (threadIdx.x > 0) return;
    const real loss_now = loss[0], norm_now = norm[0];
    record[2 * (1LL + i)] = loss_now;
    record[2 * (1LL + i) + 1] = norm_now;
    const bool finite = loss_now - loss_now == 0 && norm_now - norm_now == 0;  // inf - inf and NaN are NaN
    if (!finite) record[0] = 0;
}
