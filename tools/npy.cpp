#include "tools/npy.hpp"

#include <bit>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "compiler/problem/checked_math.hpp"
#include "tools/output_file.hpp"

namespace convt::tools {
namespace {

static_assert(std::endian::native == std::endian::little, "data is copied, not converted");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxHeader = 64 * 1024;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

Error bad_file(const std::string& path, const std::string& why) {
  return {ErrorCode::invalid_argument, fmt::format("'{}': {}", path, why)};
}

struct Header {
  std::string descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

struct NpyType {
  const char* descr;
  const char* name;
};

NpyType npy_type(DataType type) {
  switch (type) {
    case DataType::f32:
      return {"<f4", "float32, little-endian"};
    case DataType::f16:
      return {"<f2", "float16, little-endian"};
    case DataType::bf16:
      return {"<u2", "the bit patterns of bfloat16 as uint16, little-endian"};
    case DataType::s8:
      return {"|i1", "int8"};
    case DataType::u8:
      return {"|u1", "uint8"};
  }
  return {"", ""};
}

/// The header is a Python dictionary literal with three keys; this reads just those forms.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  std::optional<Header> parse() {
    Header header;
    if (!take('{')) return std::nullopt;
    while (!take('}')) {
      if (!parse_entry(header)) return std::nullopt;
      if (!take(',') && peek() != '}') return std::nullopt;
    }
    return header;
  }

 private:
  char peek() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  bool take_word(std::string_view word) {
    peek();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  std::optional<std::string> parse_string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') return std::nullopt;
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) return std::nullopt;
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  // A structured type is a list: kept as text for the message that refuses it.
  std::optional<std::string> parse_descr() {
    if (peek() != '[') return parse_string();
    const std::size_t end = text_.find(']', at_);
    if (end == std::string_view::npos) return std::nullopt;
    std::string value(text_.substr(at_, end + 1 - at_));
    at_ = end + 1;
    return value;
  }

  std::optional<std::vector<std::int64_t>> parse_shape() {
    std::vector<std::int64_t> shape;
    if (!take('(')) return std::nullopt;
    while (!take(')')) {
      peek();
      std::int64_t length = 0;
      const auto [end, error] =
          std::from_chars(text_.data() + at_, text_.data() + text_.size(), length);
      if (error != std::errc() || length < 0) return std::nullopt;
      at_ = static_cast<std::size_t>(end - text_.data());
      shape.push_back(length);
      if (!take(',') && peek() != ')') return std::nullopt;
    }
    return shape;
  }

  bool parse_entry(Header& header) {
    const std::optional<std::string> key = parse_string();
    if (!key || !take(':')) return false;
    if (*key == "descr") {
      const std::optional<std::string> descr = parse_descr();
      if (descr) header.descr = *descr;
      return descr.has_value();
    }
    if (*key == "fortran_order") {
      if (take_word("True"))
        header.fortran_order = true;
      else if (take_word("False"))
        header.fortran_order = false;
      return header.fortran_order.has_value();
    }
    if (*key == "shape") {
      header.shape = parse_shape();
      return header.shape.has_value();
    }
    return false;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

Result<std::string> read_header_text(const std::string& path, std::FILE* file) {
  unsigned char prefix[8];
  if (std::fread(prefix, 1, sizeof prefix, file) != sizeof prefix ||
      std::memcmp(prefix, kMagic.data(), kMagic.size()) != 0) {
    return bad_file(path, "not an .npy file (its first bytes are not \\x93NUMPY)");
  }
  const int version = prefix[6];
  if (version != 1 && version != 2) {
    return bad_file(
        path, fmt::format(".npy format version {}.{} is not read here, only 1.0 and 2.0", version,
                          prefix[7]));
  }
  unsigned char length_bytes[4] = {};
  const std::size_t length_size = version == 1 ? 2 : 4;
  if (std::fread(length_bytes, 1, length_size, file) != length_size) {
    return bad_file(path, "the file ends within the .npy header");
  }
  std::uint32_t length = 0;
  std::memcpy(&length, length_bytes, sizeof length);
  if (length > kMaxHeader) {
    return bad_file(
        path, fmt::format(".npy header of {} bytes; at most {} are read", length, kMaxHeader));
  }
  std::string text(length, '\0');
  if (std::fread(text.data(), 1, length, file) != length) {
    return bad_file(path, "the file ends within the .npy header");
  }
  return text;
}

Result<std::vector<std::int64_t>> check_header(const std::string& path, const std::string& text,
                                               DataType type) {
  const std::optional<Header> header = HeaderParser(text).parse();
  if (!header || !header->fortran_order || !header->shape) {
    return bad_file(path,
                    "the .npy header does not have the keys descr, fortran_order and shape "
                    "in the usual form");
  }
  const NpyType wanted = npy_type(type);
  if (header->descr != wanted.descr) {
    return bad_file(path,
                    fmt::format("elements of type '{}'; the layer wants '{}' ({}){}", header->descr,
                                wanted.descr, wanted.name,
                                type == DataType::bf16
                                    ? ""
                                    : fmt::format("; save it with x.astype('{}')", wanted.descr)));
  }
  if (*header->fortran_order) {
    return bad_file(path, "the array is in Fortran order; save it with np.ascontiguousarray(x)");
  }
  return *header->shape;
}

std::optional<std::int64_t> element_count(const std::vector<std::int64_t>& shape,
                                          std::int64_t element) {
  std::optional<std::int64_t> count = 1;
  for (const std::int64_t length : shape) {
    if (count) count = checked_mul(*count, length);
  }
  if (!count || !checked_mul(*count, element)) return std::nullopt;
  return count;
}

// Sizes are compared before anything is allocated: a damaged header must not ask for terabytes.
Status check_size(const std::string& path, std::FILE* file, std::int64_t bytes) {
  const long begin = std::ftell(file);
  if (begin < 0 || std::fseek(file, 0, SEEK_END) != 0) return io_error("read", path);
  const std::int64_t present = std::ftell(file) - begin;
  if (std::fseek(file, begin, SEEK_SET) != 0) return io_error("read", path);
  if (present == bytes) return ok_status();
  return bad_file(
      path, fmt::format("the header promises {} bytes of data, the file has {}", bytes, present));
}

}  // namespace

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

Result<NpyArray> read_npy(const std::string& path, DataType type) {
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) return io_error("read", path);
  return read_npy(file.get(), path, type);
}

Result<NpyArray> read_npy(std::FILE* file, const std::string& path, DataType type) {
  const Result<std::string> text = read_header_text(path, file);
  if (!text.ok()) return text.error();
  Result<std::vector<std::int64_t>> shape = check_header(path, *text, type);
  if (!shape.ok()) return shape.error();
  const std::int64_t element = element_bytes(type);
  const std::optional<std::int64_t> count = element_count(*shape, element);
  if (!count) return bad_file(path, fmt::format("shape {} is too large", shape_text(*shape)));
  const Status size = check_size(path, file, *count * element);
  if (!size.ok()) return size.error();

  NpyArray array{std::move(*shape), {}};
  array.data.resize(type, *count);
  if (std::fread(array.data.data(), 1, array.data.bytes(), file) != array.data.bytes()) {
    return io_error("read", path);
  }
  return array;
}

Status write_npy(const std::string& path, std::span<const std::int64_t> shape, DataType type,
                 const void* data) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}",
                                   npy_type(type).descr, shape_text(shape));
  // The data begins at a multiple of 64 bytes, and the header ends in a new line.
  const std::size_t unpadded = kMagic.size() + 4 + header.size() + 1;
  header.append((64 - unpadded % 64) % 64, ' ').push_back('\n');
  const auto length = static_cast<std::uint16_t>(header.size());

  Result<OutputFile> file = OutputFile::create(path);
  if (!file.ok()) return file.error();
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  std::fwrite(kMagic.data(), 1, kMagic.size(), file->stream());
  std::fwrite("\x01\x00", 1, 2, file->stream());
  std::fwrite(&length, 1, sizeof length, file->stream());
  std::fwrite(header.data(), 1, header.size(), file->stream());
  std::fwrite(data, static_cast<std::size_t>(element_bytes(type)), static_cast<std::size_t>(count),
              file->stream());
  return file->commit();
}

}  // namespace convt::tools
