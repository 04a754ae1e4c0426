// The Metal text in the program is the build's, the checker executes the same text, and its kernels are declared as the
// Metal Device calls them.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <string>

#include "backends/gpu/device.h"
#include "backends/metal/kernel_text.h"

namespace plumb::backends {
namespace {

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

const std::regex& attribute() {
  static const std::regex pattern(R"(\[\[[^\]]*\]\])");
  return pattern;
}

TEST(MetalText, IsTheBuildsByteForByte) {
  const std::string_view text = metal::kernel_text();
  ASSERT_FALSE(text.empty());
  EXPECT_TRUE(text == read(PLUMB_METAL_TEXT_DIR "/kernels.metal"));
  EXPECT_EQ(text.find('\0'), std::string_view::npos);
  EXPECT_EQ(*(text.data() + text.size()), '\0');
}

TEST(MetalText, WithoutItsAttributesIsWhatTheCheckerExecutes) {
  const std::string stripped = std::regex_replace(std::string(metal::kernel_text()), attribute(), "");
  EXPECT_TRUE(stripped == read(PLUMB_METAL_TEXT_DIR "/kernels.stripped.metal"));
}

// The parts of a kernel's declaration that its launch depends on.
struct Declaration {
  std::uint32_t threads = 0;
  std::string buffers;  // "0 1 2", in the order of the arguments
  bool shares = false;
  bool params_last = false;  // of the buffers
};

std::map<std::string, Declaration> declarations() {
  const std::string text(metal::kernel_text());
  const std::regex kernel(R"(\[\[max_total_threads_per_threadgroup\((\d+)\)\]\] kernel void (\w+)\(([^{]*)\{)");
  const std::regex buffer(R"((&p )?\[\[buffer\((\d+)\)\]\])");
  std::map<std::string, Declaration> found;
  for (std::sregex_iterator i(text.begin(), text.end(), kernel), end; i != end; ++i) {
    Declaration& declaration = found[(*i)[2]];
    declaration.threads = static_cast<std::uint32_t>(std::stoul((*i)[1]));
    const std::string arguments = (*i)[3];
    declaration.shares = arguments.find("[[threadgroup(0)]]") != std::string::npos;
    for (std::sregex_iterator b(arguments.begin(), arguments.end(), buffer); b != end; ++b) {
      declaration.buffers += (declaration.buffers.empty() ? "" : " ") + (*b)[2].str();
      declaration.params_last = (*b)[1].matched;
    }
  }
  return found;
}

TEST(MetalText, DeclaresKernelsAsTheyAreLaunched) {
  const auto declared = declarations();
  EXPECT_EQ(declared.size(), gpu::kernel_infos().size());
  for (const gpu::KernelInfo& info : gpu::kernel_infos()) {
    SCOPED_TRACE(info.name);
    const auto found = declared.find(std::string(info.name));
    ASSERT_NE(found, declared.end());
    const Declaration& declaration = found->second;
    EXPECT_EQ(declaration.threads, info.threads);
    EXPECT_EQ(declaration.shares, info.shared_bytes > 0);
    EXPECT_TRUE(declaration.params_last);
    EXPECT_EQ(declaration.buffers, std::string("0 1 2 3 4 5 6 7").substr(0, declaration.buffers.size()));
  }
}

}  // namespace
}  // namespace plumb::backends
