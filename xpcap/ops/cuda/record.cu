// Records the loss and gradient norm of a training step on the device. Contract: Ops.record_step.
// Only the first thread works.
//
// record (capacity + 1, 2): row 1 + i holds loss and norm of step i; record[0, 0] starts at 1 and
// becomes 0 with the first one that is not finite.
typedef REAL real;

extern "C" __global__ void record_step(real* record, const real* loss, const real* norm, int i) {
    if (threadIdx.x > 0) return;
    const real loss_now = loss[0], norm_now = norm[0];
    record[2 * (1LL + i)] = loss_now;
    record[2 * (1LL + i) + 1] = norm_now;
    const bool finite = loss_now - loss_now == 0 && norm_now - norm_now == 0;  // inf - inf and NaN are NaN
    if (!finite) record[0] = 0;
}
