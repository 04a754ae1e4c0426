#include "cli/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "base/letter_case.h"
#include "base/white_space.h"
#include "cli/sha256.h"

namespace plumb::cli {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view magic = "GGUF";
constexpr std::string_view not_gguf = "what it gives is no GGUF file: it does not begin with the letters GGUF";

// The disk space that a download must leave free.
constexpr std::uint64_t spare_bytes = std::uint64_t{64} << 20;

constexpr std::array pauses{std::chrono::milliseconds(100), std::chrono::milliseconds(500),
                            std::chrono::milliseconds(2000)};

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The hash in an ETag such as "b179…", with or without quotes; empty where it is none.
std::string hash_of(std::string_view etag) {
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return is_sha256(etag) ? std::string(etag) : std::string();
}

// The address that a Link header has for rel="next", resolved by that of the page; empty: it has none.
std::string next_page(std::string_view links, const std::string& page) {
  while (!links.empty()) {
    const std::size_t open = links.find('<');
    if (open == std::string_view::npos) return {};
    const std::size_t close = links.find('>', open);
    if (close == std::string_view::npos) return {};
    const std::string target(links.substr(open + 1, close - open - 1));
    links.remove_prefix(close + 1);
    const std::string_view parameters = links.substr(0, links.find('<'));
    const bool is_next =
        parameters.find("rel=\"next\"") != std::string_view::npos || parameters.find("rel=next") != std::string_view::npos;
    if (!is_next) continue;
    const std::unique_ptr<CURLU, void (*)(CURLU*)> address(curl_url(), curl_url_cleanup);
    char* resolved = nullptr;
    if (!address || curl_url_set(address.get(), CURLUPART_URL, page.c_str(), 0) != CURLUE_OK ||
        curl_url_set(address.get(), CURLUPART_URL, target.c_str(), 0) != CURLUE_OK ||
        curl_url_get(address.get(), CURLUPART_URL, &resolved, 0) != CURLUE_OK) {
      return {};
    }
    std::string text(resolved);
    curl_free(resolved);
    return text;
  }
  return {};
}

// One request: libcurl's handle, what the server's headers say, and where the bytes go.
class Transfer {
 public:
  Transfer(const HttpRequest& request, const HttpProgress& progress)
      : request_(request), progress_(progress), curl_(curl_easy_init(), curl_easy_cleanup) {}

  // Receives bytes; gives a reason to end the transfer, or an empty text.
  std::function<std::string(std::string_view bytes)> sink;
  std::uint64_t offset = 0;  // bytes that are there already
  std::string if_range;

  Result<void> perform() {
    if (!curl_) return fail("libcurl cannot be started");
    CURL* handle = curl_.get();
    const auto set = [&](CURLoption option, auto value) { curl_easy_setopt(handle, option, value); };
    set(CURLOPT_URL, request_.url.c_str());
    set(CURLOPT_USERAGENT, "plumb/" PLUMB_VERSION);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_REDIR_PROTOCOLS_STR, request_.url.starts_with("https:") ? "https" : "http,https");
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 10L);
    set(CURLOPT_FAILONERROR, 1L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(std::min<std::int64_t>(request_.stall.count(), 15)));
    set(CURLOPT_ERRORBUFFER, message_.data());
    set(CURLOPT_HEADERFUNCTION, on_header);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, on_data);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_XFERINFOFUNCTION, on_progress);
    set(CURLOPT_XFERINFODATA, this);
    set(CURLOPT_NOPROGRESS, 0L);
    // libcurl keeps this token from other hosts, which a header of ours might reach.
    if (!request_.token.empty()) {
      set(CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BEARER));
      set(CURLOPT_XOAUTH2_BEARER, request_.token.c_str());
    }
    curl_slist* list = nullptr;
    for (const std::string& header : request_.headers) list = curl_slist_append(list, header.c_str());
    if (offset > 0) {
      set(CURLOPT_RANGE, (std::to_string(offset) + "-").c_str());
      if (!if_range.empty()) list = curl_slist_append(list, ("If-Range: " + if_range).c_str());
    }
    const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(list, curl_slist_free_all);
    set(CURLOPT_HTTPHEADER, headers.get());
    code_ = curl_easy_perform(handle);
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status_);
    if (code_ == CURLE_OK) return {};
    if (stalled_) return fail("the server sent nothing for {} s", request_.stall.count());
    if (code_ == CURLE_ABORTED_BY_CALLBACK) return fail("{}", interrupted_message);
    if (!refusal_.empty()) return fail("{}", refusal_);
    return fail("{}", message_[0] != '\0' ? message_.data() : curl_easy_strerror(code_));
  }

  [[nodiscard]] long status() const { return status_; }
  [[nodiscard]] const std::string& etag() const { return etag_; }
  // The address of the next page, which the Link headers name.
  [[nodiscard]] std::string next() const { return next_page(links_, request_.url); }
  [[nodiscard]] const std::string& linked_etag() const { return linked_etag_; }
  [[nodiscard]] std::optional<std::uint64_t> linked_size() const { return linked_size_; }
  // Where the answer's bytes begin in the file, and how long the whole is, by Content-Range.
  [[nodiscard]] std::optional<std::uint64_t> range_start() const { return range_start_; }
  [[nodiscard]] std::optional<std::uint64_t> range_total() const { return range_total_; }

  // Bytes that this answer has; none: the server does not say.
  [[nodiscard]] std::optional<std::uint64_t> length() const {
    curl_off_t length = -1;
    curl_easy_getinfo(curl_.get(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    return length < 0 ? std::nullopt : std::optional(static_cast<std::uint64_t>(length));
  }

  // Whether the same request may succeed a little later.
  [[nodiscard]] bool may_pass() const {
    if (stalled_) return true;
    switch (code_) {
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_CONNECT:
      case CURLE_PARTIAL_FILE:
      case CURLE_OPERATION_TIMEDOUT:
      case CURLE_GOT_NOTHING:
      case CURLE_SEND_ERROR:
      case CURLE_RECV_ERROR:
      case CURLE_HTTP2:
      case CURLE_HTTP2_STREAM:
        return true;
      case CURLE_HTTP_RETURNED_ERROR:
        return status_ == 408 || status_ == 429 || status_ == 500 || (status_ >= 502 && status_ <= 504);
      default:
        return false;
    }
  }
  // Whether the server answered, or bytes came, before it ended.
  [[nodiscard]] bool reached_server() const { return status_ != 0; }

 private:
  static std::size_t on_header(char* data, std::size_t, std::size_t n, void* transfer) {
    static_cast<Transfer*>(transfer)->header(std::string_view(data, n));
    return n;
  }

  void header(std::string_view line) {
    if (line.starts_with("HTTP/")) {
      // An answer begins: what an earlier one, a redirect, said of itself does not hold for it.
      etag_.clear();
      links_.clear();
      range_start_.reset();
      range_total_.reset();
      return;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    const std::string name = in_small_letters(std::string(line.substr(0, colon)));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (name == "etag") etag_ = value;
    if (name == "link") links_ += fmt::format("{}{}", links_.empty() ? "" : ", ", value);
    // Only the first: the host that it comes from is the one that was asked, or one that this host named before any other.
    if (name == "x-linked-etag" && linked_etag_.empty()) linked_etag_ = value;
    if (name == "x-linked-size" && !linked_size_) linked_size_ = number(value);
    if (name == "content-range" && value.starts_with("bytes ")) {
      const std::size_t slash = value.find('/');
      if (slash == std::string_view::npos) return;
      range_start_ = number(value.substr(6, std::min(value.find('-'), slash) - 6));
      range_total_ = number(value.substr(slash + 1));
    }
  }

  static std::size_t on_data(char* data, std::size_t, std::size_t n, void* transfer) {
    auto& self = *static_cast<Transfer*>(transfer);
    curl_easy_getinfo(self.curl_.get(), CURLINFO_RESPONSE_CODE, &self.status_);
    self.refusal_ = self.sink(std::string_view(data, n));
    return self.refusal_.empty() ? n : CURL_WRITEFUNC_ERROR;
  }

  static int on_progress(void* transfer, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
    auto& self = *static_cast<Transfer*>(transfer);
    const auto now = std::chrono::steady_clock::now();
    if (done != self.last_done_) {
      self.last_done_ = done;
      self.last_change_ = now;
    }
    self.stalled_ = now - self.last_change_ > self.request_.stall;
    if (self.stalled_) return 1;
    const std::uint64_t before = self.status_ == 206 ? self.offset : 0;
    const bool go_on = self.progress_(before + static_cast<std::uint64_t>(std::max<curl_off_t>(done, 0)),
                                      total > 0 ? before + static_cast<std::uint64_t>(total) : 0);
    return go_on ? 0 : 1;
  }

  const HttpRequest& request_;
  const HttpProgress& progress_;
  std::unique_ptr<CURL, void (*)(CURL*)> curl_;
  std::array<char, CURL_ERROR_SIZE> message_{};
  CURLcode code_ = CURLE_OK;
  long status_ = 0;
  std::string refusal_;  // why Plumb ended the transfer
  curl_off_t last_done_ = 0;
  std::chrono::steady_clock::time_point last_change_ = std::chrono::steady_clock::now();
  bool stalled_ = false;
  std::string etag_, linked_etag_, links_;
  std::optional<std::uint64_t> linked_size_, range_start_, range_total_;
};

std::uint64_t size_of(const fs::path& path) {
  std::error_code error;
  const std::uint64_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

fs::path etag_path(const fs::path& path) { return path.string() + ".etag"; }

std::string kept_etag(const fs::path& path) {
  std::ifstream stream(etag_path(path));
  std::string etag;
  std::getline(stream, etag);
  return etag.size() <= 1000 ? etag : std::string();
}

// Removes a part that does not belong to the file, so that the next attempt starts anew.
void forget(const fs::path& path) {
  std::error_code ignored;
  fs::remove(path, ignored);
  fs::remove(etag_path(path), ignored);
}

// Waits unless the progress ends the download.
bool wait(std::chrono::milliseconds pause, const HttpProgress& progress, std::uint64_t done) {
  const auto end = std::chrono::steady_clock::now() + pause;
  while (std::chrono::steady_clock::now() < end) {
    if (!progress(done, 0)) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

// Writes a file's bytes behind those that are there, or from the start where the server begins anew.
class FileSink {
 public:
  FileSink(const fs::path& path, Transfer& transfer, ExpectedFile& expected)
      : path_(path), transfer_(transfer), expected_(expected) {}

  std::string operator()(std::string_view bytes) {
    if (std::string refusal = begun_ ? "" : begin(); !refusal.empty()) return refusal;
    for (const char letter : bytes.substr(0, magic.size() - letters_)) {
      if (letter != magic[letters_++]) {
        spoiled_ = true;
        return std::string(not_gguf);
      }
    }
    at_ += bytes.size();
    if (expected_.bytes > 0 && at_ > expected_.bytes) {
      spoiled_ = true;
      return fmt::format("it has more than the {} bytes expected; the source has changed", expected_.bytes);
    }
    if (at_ > limit_) {
      return fmt::format("the disk of {} is full; PLUMB_CACHE may name another place", path_.parent_path().string());
    }
    if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
      return fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    }
    return {};
  }

  // Whether all that came lies in the file.
  bool close() { return file_ == nullptr || std::fclose(file_.release()) == 0; }

  // Opens the file where the answer's first byte belongs. Called for an answer without bytes as well.
  std::string begin() {
    begun_ = true;
    const bool goes_on = transfer_.status() == 206;
    if (goes_on && (transfer_.offset == 0 || transfer_.range_start() != transfer_.offset)) {
      spoiled_ = true;
      return "the server answers with another part of the file than was asked for";
    }
    at_ = goes_on ? transfer_.offset : 0;
    letters_ = std::min<std::uint64_t>(at_, magic.size());
    if (transfer_.linked_size() && expected_.linked) expected_.bytes = *transfer_.linked_size();
    if (std::string hash = hash_of(transfer_.linked_etag()); expected_.linked && expected_.sha256.empty()) {
      expected_.sha256 = std::move(hash);
    }
    const auto length = transfer_.length();
    if (length && expected_.bytes > 0 && at_ + *length != expected_.bytes) {
      spoiled_ = true;
      return fmt::format("it has {} bytes instead of {}; the source has changed", at_ + *length, expected_.bytes);
    }
    std::error_code error;
    const fs::space_info space = fs::space(path_.parent_path(), error);
    const std::uint64_t room =
        error ? UINT64_MAX - at_ : space.available - std::min<std::uint64_t>(space.available, spare_bytes);
    const std::uint64_t needed = length ? *length : expected_.bytes > at_ ? expected_.bytes - at_ : 0;
    if (needed > room) {
      return fmt::format("the file has {} bytes and the disk of {} has room for {}; PLUMB_CACHE may name another place",
                         needed, path_.parent_path().string(), room);
    }
    limit_ = at_ + room;
    file_ = File(std::fopen(path_.c_str(), goes_on ? "ab" : "wb"), std::fclose);
    if (!file_) return fmt::format("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    // A weak ETag ("W/…") does not promise the same bytes.
    const std::string& etag = transfer_.etag();
    if (!goes_on) std::ofstream(etag_path(path_)) << (etag.starts_with('"') ? etag : "");
    return {};
  }

  [[nodiscard]] bool begun() const { return begun_; }
  // Whether what lies in the file cannot be a part of it.
  [[nodiscard]] bool spoiled() const { return spoiled_; }

 private:
  const fs::path& path_;
  Transfer& transfer_;
  ExpectedFile& expected_;
  using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
  File file_{nullptr, std::fclose};
  bool begun_ = false;
  bool spoiled_ = false;
  std::uint64_t at_ = 0;       // bytes in the file
  std::uint64_t letters_ = 0;  // letters of the magic that were seen
  std::uint64_t limit_ = 0;    // bytes that the disk has room for
};

}  // namespace

Result<std::string> get_document(const HttpRequest& request, std::uint64_t max_bytes, const HttpProgress& progress,
                                 Answered* answered) {
  std::string document;
  for (std::size_t attempt = 0;; ++attempt) {
    document.clear();
    Transfer transfer(request, progress);
    transfer.sink = [&](std::string_view bytes) -> std::string {
      if (bytes.size() > max_bytes - document.size()) return fmt::format("the answer is longer than {} bytes", max_bytes);
      document += bytes;
      return {};
    };
    const auto done = transfer.perform();
    if (answered != nullptr) *answered = {transfer.status(), transfer.next()};
    if (done) return document;
    if (done.error().message == interrupted_message) return fail(done.error());
    const bool again = transfer.may_pass() && transfer.reached_server() && attempt < pauses.size();
    if (!again) return fail("{}: {}", request.url, done.error().message);
    if (!wait(pauses[attempt], progress, 0)) return fail("{}", interrupted_message);
  }
}

Result<void> check_file(const HttpRequest& request, const HttpProgress& progress) {
  Transfer transfer(request, progress);
  std::string begin;
  transfer.sink = [&](std::string_view bytes) -> std::string {
    begin += bytes.substr(0, magic.size() - std::min(begin.size(), magic.size()));
    return magic.starts_with(begin) && begin.size() < magic.size() ? "" : std::string(not_gguf);
  };
  const auto done = transfer.perform();
  if (begin == magic) return {};
  return fail("{}: {}", request.url, done ? std::string(not_gguf) : done.error().message);
}

Result<ExpectedFile> get_file(const HttpRequest& request, const fs::path& path, const ExpectedFile& expected,
                              const HttpProgress& progress) {
  ExpectedFile known = expected;
  std::uint64_t furthest = size_of(path);
  std::size_t fruitless = 0;
  bool answered = false;
  for (;;) {
    const std::string etag = kept_etag(path);
    // Without an ETag or a hash nobody could tell whether the rest belongs to this part.
    if (etag.empty() && known.sha256.empty()) forget(path);
    const std::uint64_t present = size_of(path);
    if (known.bytes > 0 && present == known.bytes) return known;
    if (known.bytes > 0 && present > known.bytes) {
      forget(path);
      continue;
    }
    Transfer transfer(request, progress);
    transfer.offset = present;
    transfer.if_range = etag;
    FileSink sink(path, transfer, known);
    transfer.sink = [&](std::string_view bytes) { return sink(bytes); };
    Result<void> done = transfer.perform();
    if (done && !sink.begun()) {
      if (std::string refusal = sink.begin(); !refusal.empty()) done = fail("{}", std::move(refusal));
    }
    if (!sink.close() && done) done = fail("{}: cannot be written: {}", path.string(), std::strerror(errno));
    if (done) return known;
    if (transfer.status() == 416 && present > 0 && transfer.range_total() == present) return known;
    answered = answered || transfer.reached_server();
    const std::uint64_t reached = size_of(path);
    const bool resumable = !known.sha256.empty() || !kept_etag(path).empty();
    if (reached == 0 || !resumable || sink.spoiled() || transfer.status() == 416) forget(path);
    const bool interrupted = done.error().message == interrupted_message;
    const bool again = !interrupted && (transfer.status() == 416 || (transfer.may_pass() && answered));
    if (again && resumable && reached > furthest) {
      furthest = reached;
      fruitless = 0;
    } else if (again && (resumable || reached == 0) && fruitless < pauses.size()) {
      if (!wait(pauses[fruitless++], progress, reached)) return fail("{}", interrupted_message);
    } else if (interrupted) {
      return fail("{}", interrupted_message);
    } else {
      return fail("{}: {}", request.url, done.error().message);
    }
  }
}

}  // namespace plumb::cli
