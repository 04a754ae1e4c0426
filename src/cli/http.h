// Downloads over http and https (libcurl). Redirects are followed, ten at most, from https to https only.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace plumb::cli {

// Called now and then with the bytes that are there and all that are expected (0: unknown). Returning false stops the
// download.
using HttpProgress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

struct HttpRequest {
  std::string url;
  std::vector<std::string> headers;
  std::string token;               // sent to the host of `url` alone, and to none that it redirects to
  std::chrono::seconds stall{30};  // a server that sends nothing for so long is taken for gone
};

// The error of a download that its progress stopped.
inline constexpr std::string_view interrupted_message = "interrupted";

// What a server's answer says beside the document.
struct Answered {
  long status = 0;   // 0: there was no answer
  std::string next;  // the address of the listing's next page (RFC 8288, rel="next"); empty: there is none
};

// A server's answer of at most `max_bytes`. Errors name the address and what happened.
Result<std::string> get_document(const HttpRequest& request, std::uint64_t max_bytes, const HttpProgress& progress,
                                 Answered* answered = nullptr);

// Whether the server has a file that begins as a GGUF does. Fetches its first bytes.
Result<void> check_file(const HttpRequest& request, const HttpProgress& progress);

// What is known of a file before it is fetched.
struct ExpectedFile {
  std::uint64_t bytes = 0;  // 0: unknown
  std::string sha256;       // empty: unknown, unless the server says it
  bool linked = false;      // the server's X-Linked-Etag and X-Linked-Size, as Hugging Face sends them, say both
};

// Fetches a file to `path`, where a part of it may lie already: the download then goes on behind it, provided that the
// server's file is the same (its ETag, kept in `path`.etag) or that the expected hash will show whether it is. After a
// break or a stall it goes on by itself for as long as bytes come; else it tries three times more. What was fetched stays
// where an error is returned, unless it cannot be part of the file. Returns what is now known of the file; the hash is not
// checked here.
Result<ExpectedFile> get_file(const HttpRequest& request, const std::filesystem::path& path, const ExpectedFile& expected,
                              const HttpProgress& progress);

}  // namespace plumb::cli
