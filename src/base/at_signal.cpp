#include "base/at_signal.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <utility>

namespace plumb {

namespace {

// A handler may run at any time, on any thread. It reads no memory but these tables, whose entries have a fixed place and
// are in use while `state` is `ready`.
enum State : int { unused, filling, ready };
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

constexpr std::size_t path_bytes = 4096;
struct Path {
  std::atomic<int> state;
  std::array<char, path_bytes> text;
};
std::array<Path, 32> paths;

struct Range {
  std::atomic<int> state;
  std::uintptr_t begin, end;
  std::array<char, 1024> label;
};
std::array<Range, 256> ranges;

std::atomic<bool> is_drawn;
std::atomic<bool> is_ending;

// Copies `text`, with a zero behind it; cut where it is too long.
template <std::size_t n>
void copy(std::string_view text, std::array<char, n>& to) {
  const std::size_t length = std::min(text.size(), n - 1);
  std::copy_n(text.data(), length, to.data());
  to[length] = '\0';
}

// The index of an entry that `fill` has filled in; -1 if all are in use.
template <class Table, class Fill>
int enter(Table& table, const Fill& fill) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    int expected = unused;
    if (!table[i].state.compare_exchange_strong(expected, filling)) continue;
    fill(table[i]);
    table[i].state = ready;
    return static_cast<int>(i);
  }
  return -1;
}

template <class Table>
void leave(Table& table, int slot) {
  if (slot >= 0) table[static_cast<std::size_t>(slot)].state = unused;
}

void say(const char* text) { [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, std::strlen(text)); }

// Only the first thread that comes here goes on.
void begin_to_end() {
  if (is_ending.exchange(true)) {
    for (;;) ::pause();
  }
  if (is_drawn) say("\r\x1b[K");
  for (const Path& path : paths) {
    if (path.state == ready) ::unlink(path.text.data());
  }
  for (const Path& path : paths) {
    if (path.state == ready) ::rmdir(path.text.data());
  }
}

void on_end(int signal) {
  begin_to_end();
  ::_exit(128 + signal);
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (const Range& range : ranges) {
    if (range.state != ready || address < range.begin || address >= range.end) continue;
    begin_to_end();
    say("plumb: ");
    say(range.label.data());
    say(": cannot be read any more: the file became shorter meanwhile, or its disk failed; make it whole and start "
        "again\n");
    ::_exit(2);
  }
  // No file's bytes: a fault of the program, which happens again as soon as the handler returns.
  std::signal(signal, SIG_DFL);
}

}  // namespace

RemovedAtSignal::RemovedAtSignal(std::string_view path)
    : slot_(path.size() < path_bytes ? enter(paths, [&](Path& entry) { copy(path, entry.text); }) : -1) {}
RemovedAtSignal::~RemovedAtSignal() { leave(paths, slot_); }
RemovedAtSignal::RemovedAtSignal(RemovedAtSignal&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}

MappedFromFile::MappedFromFile(std::span<const std::byte> bytes, std::string_view label)
    : slot_(enter(ranges, [&](Range& entry) {
        entry.begin = reinterpret_cast<std::uintptr_t>(bytes.data());
        entry.end = entry.begin + bytes.size();
        copy(label, entry.label);
      })) {}
MappedFromFile::~MappedFromFile() { leave(ranges, slot_); }
MappedFromFile::MappedFromFile(MappedFromFile&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}
MappedFromFile& MappedFromFile::operator=(MappedFromFile&& other) noexcept {
  std::swap(slot_, other.slot_);
  return *this;
}

void progress_is_drawn(bool drawn) { is_drawn = drawn; }

void end_well_at_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before {};
    if (::sigaction(signal, nullptr, &before) != 0 || before.sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = on_end;
    ::sigaction(signal, &action, nullptr);
  }
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace plumb
