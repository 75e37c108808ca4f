// The form of packed weights in memory: a 64-byte header, then PackedLayout::elements() elements.
//
//     0  8 bytes  "convtpk1"
//     8  8 bytes  PackedLayout::hash()
//    16  8 bytes  bytes after the header
//    24 40 bytes  0
//
// So whoever holds the bytes, be it in a file, can tell which layout they were packed for; and
// 64-byte aligned memory has 64-byte aligned weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include <convt/kernel.hpp>
#include <convt/result.hpp>

#include "compiler/packing/packing.hpp"

namespace convt {

inline constexpr std::size_t kPackedHeaderBytes = 64;

/// What a kernel expects to find in a header.
struct PackedFormat {
  std::uint64_t layout_hash = 0;
  std::uint64_t payload_bytes = 0;

  [[nodiscard]] std::size_t bytes() const { return kPackedHeaderBytes + payload_bytes; }
};

PackedFormat make_packed_format(const PackedLayout& layout);

/// Writes header and weights; `memory` holds format.bytes() bytes of any alignment.
Status write_packed(const PackedLayout& layout, const void* canonical, void* memory);

/// Whether `weights` are what `format` says; the error (invalid_argument) says what they are
/// instead. No more is read than weights.bytes says there is.
bool is_packed_as(const PackedFormat& format, const WeightsView& weights);
Error describe_mismatch(const PackedFormat& format, const WeightsView& weights);

}  // namespace convt
