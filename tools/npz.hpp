// NumPy's .npz files: .npy files in a zip archive, stored or deflated.
#pragma once

#include <string>

#include <convt/problem.hpp>
#include <convt/result.hpp>

#include "tools/npy.hpp"

namespace convt::tools {

/// The array that numpy.savez() was given as `name`. Errors as those of read_npy();
/// invalid_argument also when there is no such array.
Result<NpyArray> read_npz(const std::string& path, const std::string& name, DataType type);

}  // namespace convt::tools
