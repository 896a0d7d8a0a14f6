"""The operators behind the layers: a folder for each layer, a file for each way to compute it.

| backend     | EMAM, in emam/                    | SCAM, in scam/                |
|-------------|-----------------------------------|-------------------------------|
| "reference" | reference.py                      | reference.py                  |
| "collapsed" | chunked.py, reference.py          | chunked.py, reference.py      |
| "native"    | native.py, C kernels in native/   | native.py, kernels in native/ |
| "plain"     | collapsed.py                      | reference.py                  |
| "triton"    | fused.py, kernels in triton/      | fused.py, kernels in triton/  |
| "cuda"      | cuda/forward.py, cuda/backward.py |                               |

"cuda" is CUDA C, which cuda/ here compiles and launches. On a GPU `auto` runs
emam/gpu.py, which takes "cuda" or, where that cannot run, "triton". "native" is compiled when the package is installed;
"collapsed" needs nothing but torch. It runs the hand-written `chunked.py`; small inputs take `reference.py`, which is
faster there. "plain" means plain torch operations: `resolve_backend` returns it for exported graphs, and users cannot
choose it. The same files serve torch.func, forward-mode differentiation and second derivatives, whatever the backend.

Calls go one way: EMAM.forward -> functional.emam -> emam/autograd.py -> emam/operators.py -> emam/chunked.py,
emam/native.py, emam/fused.py or emam/cuda/ -> kernels. SCAM's are alike. No backend imports another: what they share is
in `tensors.py`.
"""
