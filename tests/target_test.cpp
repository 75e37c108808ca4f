#include "compiler/target/target.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>
#include <vector>

namespace convt {
namespace {

TEST(Target, IsaNamesAreReadBack) {
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    const Result<Isa> parsed = parse_isa(to_string(isa));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, isa);
  }
}

TEST(Target, UnknownIsasAreRefusedByName) {
  for (const char* name : {"", "AVX2", "avx", "avx5", "avx512 "}) {
    const Result<Isa> parsed = parse_isa(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(parsed.error().message,
              "isa must be scalar, avx2, avx512 or neon, got '" + std::string(name) + "'");
  }
}

TEST(Target, ShapesOfTheIsas) {
  const Target avx512 = generic_target(Isa::avx512);
  EXPECT_EQ(avx512.lanes, 16);
  EXPECT_EQ(avx512.vector_registers, 32);
  EXPECT_EQ(avx512.mask_registers, 7);
  for (const Isa isa : {Isa::avx2, Isa::scalar}) {
    const Target target = generic_target(isa);
    EXPECT_EQ(target.isa, isa);
    EXPECT_EQ(target.lanes, 8);
    EXPECT_EQ(target.vector_registers, 16);
    EXPECT_EQ(target.mask_registers, 0);
  }
}

TEST(Target, NamesStandForTheirMachines) {
  EXPECT_EQ(parse_target("host").value(), host_target());
  EXPECT_EQ(parse_target("avx2").value(), generic_target(Isa::avx2));
  EXPECT_EQ(parse_target("x86-64-v3").value(), generic_target(Isa::avx2));
  EXPECT_EQ(parse_target("x86-64-v4").value(), generic_target(Isa::avx512));
  const Target aarch64 = parse_target("aarch64").value();
  EXPECT_EQ(aarch64.isa, Isa::neon);
  EXPECT_EQ(aarch64.lanes, 4);
  EXPECT_EQ(aarch64.vector_registers, 32);
  EXPECT_EQ(aarch64.mask_registers, 0);
  EXPECT_FALSE(aarch64.dot_u8s8);
  EXPECT_TRUE(parse_target("neoverse-v1").value().dot_u8s8);
  const Target znver4 = parse_target("znver4").value();
  EXPECT_EQ(znver4.to_text(), "avx512+bf16+vnni l1=32K l2=1M l3=32M");
  EXPECT_FALSE(host_can_run(aarch64));
}

TEST(Target, UnknownNamesAreRefusedWithThoseThatAreKnown) {
  for (const char* name : {"", "avx", "pentium", "x86-64-v3 "}) {
    const Result<Target> parsed = parse_target(name);
    ASSERT_FALSE(parsed.ok()) << name;
    EXPECT_EQ(parsed.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(parsed.error().message.find("'" + std::string(name) + "'"), std::string::npos);
    EXPECT_NE(parsed.error().message.find("neoverse-n1"), std::string::npos);
  }
}

TEST(Target, Text) {
  Target target = generic_target(Isa::avx512);
  target.l1_bytes = 48 * 1024;
  target.l2_bytes = 1024 * 1024;
  target.l3_bytes = 1500;
  EXPECT_EQ(target.to_text(), "avx512 l1=48K l2=1M l3=1500");
  target.dot_u8s8 = true;
  EXPECT_EQ(target.to_text(), "avx512+vnni l1=48K l2=1M l3=1500");
  target.dot_bf16 = true;
  EXPECT_EQ(target.to_text(), "avx512+bf16+vnni l1=48K l2=1M l3=1500");
}

TEST(Target, EveryFieldCounts) {
  const Target target = generic_target(Isa::avx2);
  std::vector<Target> others(9, target);
  others[0].isa = Isa::scalar;
  others[1].lanes = 4;
  others[2].vector_registers = 8;
  others[3].mask_registers = 1;
  others[4].l1_bytes += 1;
  others[5].l2_bytes += 1;
  others[6].l3_bytes += 1;
  others[7].dot_bf16 = true;
  others[8].dot_u8s8 = true;
  for (const Target& other : others) {
    EXPECT_FALSE(other == target);
    EXPECT_NE(hash_value(other), hash_value(target));
  }
  EXPECT_EQ(hash_value(generic_target(Isa::avx2)), hash_value(target));
}

TEST(Target, TheHostIsPlausible) {
  const Target& host = host_target();
  EXPECT_EQ(&host, &host_target());
  EXPECT_EQ(host.lanes, generic_target(host.isa).lanes);
  EXPECT_GE(host.l1_bytes, 8 * 1024);
  EXPECT_GE(host.l2_bytes, host.l1_bytes);
}

TEST(Target, TheHostRunsItsOwnAndLesserCode) {
  const Isa host = host_target().isa;
  EXPECT_EQ(host_can_run(host_target()), host != Isa::scalar);
  EXPECT_EQ(host_can_run(generic_target(Isa::avx2)), host >= Isa::avx2);
  EXPECT_EQ(host_can_run(generic_target(Isa::avx512)), host >= Isa::avx512);
  EXPECT_FALSE(host_can_run(generic_target(Isa::scalar)));  // only the interpreter runs it
}

TEST(Target, FeaturesOfTheHostAreItsOwn) {
  const Target& host = host_target();
  EXPECT_FALSE(generic_target(Isa::avx512).dot_bf16);
  EXPECT_FALSE(generic_target(Isa::avx512).dot_u8s8);
  if (host.isa != Isa::avx512) GTEST_SKIP() << "no AVX-512 here";
  Target other = host;
  other.dot_bf16 = other.dot_u8s8 = false;
  EXPECT_TRUE(host_can_run(other));
  other.dot_bf16 = other.dot_u8s8 = true;
  EXPECT_EQ(host_can_run(other), host.dot_bf16 && host.dot_u8s8);
}

// ---- CONVT_MAX_ISA and CONVT_DISABLE are read once a process, so each case asks a process of its
// own.

TEST(TargetHelper, DISABLED_PrintHost) {
  std::printf("target %s\n", host_target().to_text().c_str());
  std::printf("host %s, can run avx2 %d avx512 %d\n", to_string(host_target().isa),
              host_can_run(generic_target(Isa::avx2)), host_can_run(generic_target(Isa::avx512)));
}

/// What that helper prints under CONVT_MAX_ISA=cap, CONVT_DISABLE=disabled.
std::string output_under(const std::string& cap, const std::string& disabled = "") {
  std::array<char, 4096> self{};
  if (readlink("/proc/self/exe", self.data(), self.size() - 1) < 0) return "no /proc/self/exe";
  const std::string command = "CONVT_DISABLE='" + disabled + "' CONVT_MAX_ISA='" + cap + "' '" +
                              self.data() +
                              "' --gtest_also_run_disabled_tests"
                              " --gtest_filter='TargetHelper.*' 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "popen failed";
  std::string output;
  std::array<char, 256> line{};
  while (std::fgets(line.data(), static_cast<int>(line.size()), pipe) != nullptr) {
    output += line.data();
  }
  pclose(pipe);
  return output;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(MaxIsa, CapsTheHost) {
  EXPECT_TRUE(contains(output_under("scalar"), "host scalar, can run avx2 0 avx512 0"));
  const std::string avx2 = output_under("avx2");
  EXPECT_FALSE(contains(avx2, "host avx512")) << avx2;
  EXPECT_TRUE(contains(avx2, "avx512 0")) << avx2;
}

TEST(MaxIsa, NeverRaisesIt) {
  const std::string uncapped = output_under("");
  const std::string avx512 = output_under("avx512");
  EXPECT_TRUE(contains(uncapped, "host ")) << uncapped;
  const std::size_t from = uncapped.find("host "), end = uncapped.find('\n', from);
  EXPECT_TRUE(contains(avx512, uncapped.substr(from, end - from))) << avx512;
}

TEST(MaxIsa, TakesTheFeaturesWithIt) {
  EXPECT_FALSE(contains(output_under("avx2"), "target avx2+"));
}

TEST(Disable, LeavesFeaturesOut) {
  const std::string all = output_under("");
  EXPECT_FALSE(contains(output_under("", "bf16"), "+bf16"));
  EXPECT_EQ(contains(output_under("", "bf16"), "+vnni"), contains(all, "+vnni"));
  EXPECT_FALSE(contains(output_under("", "vnni"), "+vnni"));
  EXPECT_FALSE(contains(output_under("", "vnni,bf16"), "+"));
}

TEST(Disable, ReportsWhatItDoesNotKnow) {
  EXPECT_TRUE(contains(output_under("", "bf16,amx"), "knows bf16 and vnni, not 'amx'"));
}

TEST(MaxIsa, AMistypedCapIsReported) {
  const std::string output = output_under("avx3");
  EXPECT_TRUE(contains(output,
                       "CONVT_MAX_ISA is ignored: isa must be scalar, avx2, avx512 or neon, "
                       "got 'avx3'"))
      << output;
}

}  // namespace
}  // namespace convt
