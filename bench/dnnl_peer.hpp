// oneDNN's deconvolution of one layer, with weights in the layout that the library likes best.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt::bench {

/// "oneDNN 2.6.3"
std::string dnnl_version();

/// Threads that oneDNN uses from now on. Errors: unsupported when it was built without OpenMP and
/// more than one is asked for.
Status set_dnnl_threads(int threads);

/// Whether oneDNN can express the layer; the error says what it cannot.
Status check_dnnl_can(const Problem& problem);

/// A float32 deconvolution (direct, forward inference) whose source and destination are in the
/// problem's own layout.
class DnnlPeer {
 public:
  /// Errors: unsupported, with the library's own words.
  static Result<DnnlPeer> create(const Problem& problem, std::int64_t batch);

  /// The same, made anew and thrown away; the library's cache of primitives is off. For timing.
  static Status create_only(const Problem& problem, std::int64_t batch);

  DnnlPeer(DnnlPeer&& other) noexcept;
  DnnlPeer& operator=(DnnlPeer&& other) noexcept;
  ~DnnlPeer();

  /// Packs canonical weights and binds the tensors, which must outlive the runs (bias: null
  /// without).
  void bind(const float* src, const float* weights, const float* bias, float* dst);

  void run();

  [[nodiscard]] std::string implementation() const;  ///< "jit:avx512_core"

 private:
  struct Parts;
  explicit DnnlPeer(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace convt::bench
