// SHA-256 (FIPS 180-4) of a stream of bytes, by OpenSSL's libcrypto.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace plumb::cli {

class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  // The digest of all bytes so far as 64 lower-case hexadecimal digits; ends the stream.
  std::string hex();

 private:
  struct Free {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Free> context_;
};

}  // namespace plumb::cli
