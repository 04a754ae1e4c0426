// SHA-256 (FIPS 180-4), by OpenSSL's libcrypto.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace plumb::cli {

// The digest as 64 lower-case hexadecimal digits. `go_on`, if there is one, is called now and then with the number of bytes
// done; there is no digest after it has returned false.
std::optional<std::string> sha256(std::span<const std::byte> bytes,
                                  const std::function<bool(std::uint64_t done)>& go_on = {});

// Whether a text is such a digest.
bool is_sha256(std::string_view text);

}  // namespace plumb::cli
