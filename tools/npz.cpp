#include "tools/npz.hpp"

#include <zip.h>

#include <cstdio>
#include <memory>
#include <vector>

#include <fmt/format.h>

#include "tools/output_file.hpp"

namespace convt::tools {
namespace {

struct Close {
  void operator()(zip_t* archive) const { zip_discard(archive); }
  void operator()(zip_file_t* file) const { zip_fclose(file); }
  void operator()(std::FILE* file) const { std::fclose(file); }
};

Error bad_file(const std::string& path, const std::string& why) {
  return {ErrorCode::invalid_argument, fmt::format("'{}': {}", path, why)};
}

/// A member's bytes.
Result<std::vector<char>> read_member(const std::string& path, const std::string& member) {
  int code = 0;
  const std::unique_ptr<zip_t, Close> archive(zip_open(path.c_str(), ZIP_RDONLY, &code));
  if (archive == nullptr) {
    if (code == ZIP_ER_OPEN || code == ZIP_ER_NOENT || code == ZIP_ER_READ) {
      return io_error("read", path);
    }
    return bad_file(path, "not an .npz file (no zip archive)");
  }
  zip_stat_t about;
  if (zip_stat(archive.get(), member.c_str(), 0, &about) != 0 ||
      (about.valid & ZIP_STAT_SIZE) == 0) {
    return bad_file(path, fmt::format("it has no array {}", member));
  }
  const std::unique_ptr<zip_file_t, Close> file(zip_fopen_index(archive.get(), about.index, 0));
  // A damaged size must not ask for terabytes: bytes are taken as they come.
  std::vector<char> bytes;
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  for (;;) {
    const std::size_t before = bytes.size();
    bytes.resize(before + kPiece);
    const zip_int64_t got =
        file == nullptr ? -1 : zip_fread(file.get(), bytes.data() + before, kPiece);
    if (got < 0) return bad_file(path, fmt::format("{} cannot be read", member));
    bytes.resize(before + static_cast<std::size_t>(got));
    if (got == 0) return bytes;
    if (bytes.size() > about.size) return bad_file(path, fmt::format("{} is damaged", member));
  }
}

}  // namespace

Result<NpyArray> read_npz(const std::string& path, const std::string& name, DataType type) {
  const std::string member = name + ".npy";
  Result<std::vector<char>> bytes = read_member(path, member);
  if (!bytes.ok()) return bytes.error();
  if (bytes->empty()) return bad_file(path, fmt::format("{} is empty", member));
  const std::unique_ptr<std::FILE, Close> stream(::fmemopen(bytes->data(), bytes->size(), "rb"));
  if (stream == nullptr) return io_error("read", path);
  return read_npy(stream.get(), path + "/" + member, type);
}

}  // namespace convt::tools
