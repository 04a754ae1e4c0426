// What still happens when a signal ends the program: temporary files are removed, a progress bar is erased, and a read of a
// file that became shorter meanwhile gets a sentence.
//
// Registering costs no system call, and is of no effect until end_well_at_signals(). Any thread may register.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace plumb {

// A path to remove: a file, or a folder that is empty once the registered files are gone. Forgotten with this object. A
// path of more than 4095 bytes, and one beside many others, stays behind.
class RemovedAtSignal {
 public:
  explicit RemovedAtSignal(std::string_view path);
  ~RemovedAtSignal();
  RemovedAtSignal(RemovedAtSignal&& other) noexcept;
  RemovedAtSignal& operator=(RemovedAtSignal&&) = delete;

 private:
  int slot_;  // -1: none
};

// Bytes that are mapped from a file. `label` names it in the message.
class MappedFromFile {
 public:
  MappedFromFile(std::span<const std::byte> bytes, std::string_view label);
  ~MappedFromFile();
  MappedFromFile(MappedFromFile&& other) noexcept;
  MappedFromFile& operator=(MappedFromFile&& other) noexcept;

 private:
  int slot_;  // -1: none
};

// Whether a line on stderr must be erased.
void progress_is_drawn(bool drawn);

// From now on INT, TERM and HUP, unless they are ignored, remove the paths and end the program with exit code 128 plus the
// signal's number. A read beyond the end of a mapped file ends it with a message and exit code 2.
void end_well_at_signals();

}  // namespace plumb
