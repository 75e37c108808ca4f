#include "runtime/packed_weights.hpp"

#include <array>
#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace convt {
namespace {

constexpr std::array<char, 8> kMagic{'c', 'o', 'n', 'v', 't', 'p', 'k', '1'};

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint64_t layout_hash = 0;
  std::uint64_t payload_bytes = 0;
  std::array<std::uint64_t, 5> reserved{};
};
static_assert(sizeof(Header) == kPackedHeaderBytes);

Header read_header(const void* memory) {
  Header header;
  std::memcpy(&header, memory, sizeof header);
  return header;
}

}  // namespace

PackedFormat make_packed_format(const PackedLayout& layout) {
  return {layout.hash(), static_cast<std::uint64_t>(layout.elements()) * sizeof(float)};
}

Status write_packed(const PackedLayout& layout, const void* canonical, void* memory) {
  const PackedFormat format = make_packed_format(layout);
  Header header;
  header.layout_hash = format.layout_hash;
  header.payload_bytes = format.payload_bytes;
  std::memcpy(memory, &header, sizeof header);
  std::byte* const payload = static_cast<std::byte*>(memory) + sizeof header;
  try {
    if (reinterpret_cast<std::uintptr_t>(payload) % alignof(float) == 0) {
      pack_weights(layout, canonical, payload);
    } else {
      std::vector<float> aligned(static_cast<std::size_t>(layout.elements()));
      pack_weights(layout, canonical, aligned.data());
      std::memcpy(payload, aligned.data(), format.payload_bytes);
    }
  } catch (const std::bad_alloc&) {
    std::memset(memory, 0, sizeof header);  // so that nobody takes it for packed weights
    return Error{ErrorCode::out_of_memory, "no memory left while packing weights"};
  }
  return ok_status();
}

bool is_packed_as(const PackedFormat& format, const WeightsView& weights) {
  if (weights.bytes < format.bytes()) return false;
  const Header header = read_header(weights.data);
  return header.magic == kMagic && header.layout_hash == format.layout_hash &&
         header.payload_bytes == format.payload_bytes;
}

Error describe_mismatch(const PackedFormat& format, const WeightsView& weights) {
  const auto error = [](const std::string& what) {
    return Error{ErrorCode::invalid_argument, "weights: " + what};
  };
  if (weights.bytes >= kPackedHeaderBytes) {
    const Header header = read_header(weights.data);
    if (header.magic != kMagic) return error("not packed by Kernel::pack (no header found)");
    if (header.layout_hash != format.layout_hash || header.payload_bytes != format.payload_bytes) {
      return error("packed for another kernel, whose plan wants another order; pack them anew");
    }
  }
  return error(std::to_string(weights.bytes) + " bytes, but this kernel's packed weights have " +
               std::to_string(format.bytes()));
}

}  // namespace convt
