#include "backends/cuda/cublas_lt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <map>
#include <tuple>

namespace plumb::backends::cuda {

namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

// The functions of the library that Plumb calls.
#define PLUMB_CUBLAS(X)                   \
  X(cublasLtCreate)                       \
  X(cublasLtDestroy)                      \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic)

struct Functions {
#define PLUMB_POINTER(name) decltype(&::name) name = nullptr;
  PLUMB_CUBLAS(PLUMB_POINTER)
};

Result<void> check_cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  return fail("cuBLASLt: {} failed with status {}", what, static_cast<int>(status));
}

struct Shape {
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

class Opened final : public CublasLt {
 public:
  explicit Opened(const Functions& functions) : f_(functions) {}
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() override {
    cudaFree(workspace_);
    cudaFree(zero_);
    if (handle_ != nullptr) f_.cublasLtDestroy(handle_);
  }

  Result<void> start() {
    PLUMB_CHECK(check_cublas(f_.cublasLtCreate(&handle_), "cublasLtCreate"));
    if (cudaMalloc(&workspace_, workspace_bytes) != cudaSuccess || cudaMalloc(&zero_, sizeof(float)) != cudaSuccess ||
        cudaMemset(zero_, 0, sizeof(float)) != cudaSuccess) {
      return fail("no device memory for {} bytes of workspace", workspace_bytes);
    }
    return {};
  }

  Result<void> multiply(const void* w, const void* x, const float* alpha, float* y, unsigned n_in, unsigned n_out,
                        unsigned n_rows, cudaStream_t stream) override {
    PLUMB_TRY(const Shape* shape, shape_of(n_in, n_out, n_rows));
    return check_cublas(f_.cublasLtMatmul(handle_, shape->desc, alpha, w, shape->w, x, shape->x, zero_, y, shape->y, y,
                                          shape->y, &shape->algorithm, workspace_, workspace_bytes, stream),
                        "cublasLtMatmul");
  }

 private:
  // cuBLAS is column-major: it sees w as [n_in, n_out] and x as [n_in, n_rows], and computes y^T [n_out, n_rows] = w^T x.
  Result<const Shape*> shape_of(unsigned n_in, unsigned n_out, unsigned n_rows) {
    const auto key = std::make_tuple(n_in, n_out, n_rows);
    if (const auto found = shapes_.find(key); found != shapes_.end()) return &found->second;
    Shape shape;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtPointerMode_t on_device = CUBLASLT_POINTER_MODE_DEVICE;
    PLUMB_CHECK(
        check_cublas(f_.cublasLtMatmulDescCreate(&shape.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate"));
    PLUMB_CHECK(check_cublas(
        f_.cublasLtMatmulDescSetAttribute(shape.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "TRANSA"));
    PLUMB_CHECK(check_cublas(
        f_.cublasLtMatmulDescSetAttribute(shape.desc, CUBLASLT_MATMUL_DESC_POINTER_MODE, &on_device, sizeof on_device),
        "POINTER_MODE"));
    PLUMB_CHECK(check_cublas(f_.cublasLtMatrixLayoutCreate(&shape.w, CUDA_R_16F, n_in, n_out, n_in), "a layout"));
    PLUMB_CHECK(check_cublas(f_.cublasLtMatrixLayoutCreate(&shape.x, CUDA_R_16F, n_in, n_rows, n_in), "a layout"));
    PLUMB_CHECK(check_cublas(f_.cublasLtMatrixLayoutCreate(&shape.y, CUDA_R_32F, n_out, n_rows, n_out), "a layout"));
    cublasLtMatmulPreference_t preference = nullptr;
    PLUMB_CHECK(check_cublas(f_.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
    PLUMB_CHECK(check_cublas(f_.cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                     &workspace_bytes, sizeof workspace_bytes),
                             "MAX_WORKSPACE_BYTES"));
    cublasLtMatmulHeuristicResult_t result{};
    int n_found = 0;
    PLUMB_CHECK(check_cublas(f_.cublasLtMatmulAlgoGetHeuristic(handle_, shape.desc, shape.w, shape.x, shape.y, shape.y,
                                                               preference, 1, &result, &n_found),
                             "cublasLtMatmulAlgoGetHeuristic"));
    if (n_found == 0) return fail("cuBLASLt has no algorithm for a product of {} x {} by {} rows", n_out, n_in, n_rows);
    shape.algorithm = result.algo;
    return &shapes_.emplace(key, shape).first->second;
  }

  Functions f_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  void* zero_ = nullptr;  // a float
  std::map<std::tuple<unsigned, unsigned, unsigned>, Shape> shapes_;
};

}  // namespace

Result<std::unique_ptr<CublasLt>> CublasLt::open() {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) return fail("libcublasLt.so is not here; it is part of the CUDA toolkit");
  Functions f;
#define PLUMB_FIND(name)                                              \
  f.name = reinterpret_cast<decltype(f.name)>(dlsym(library, #name)); \
  if (f.name == nullptr) return fail("libcublasLt.so lacks {}, which Plumb calls", #name);
  PLUMB_CUBLAS(PLUMB_FIND)
  auto opened = std::make_unique<Opened>(f);
  PLUMB_CHECK(opened->start());
  return opened;
}

}  // namespace plumb::backends::cuda
