// Unicode 15.1 data that tokenizers need beyond what PCRE2 knows; unicode_tables.cpp is made by
// tools/make_tokenizer_unicode.py. All tables are sorted and their ranges are inclusive.
#pragma once

#include <cstdint>
#include <span>

namespace plumb::text {

struct CodePointRange {
  std::uint32_t first, last;
};

// first, first + stride, … last map to themselves plus delta.
struct MappedRange {
  std::uint32_t first, last;
  std::uint32_t stride;
  std::int32_t delta;
};

// Characters that the oldest supported PCRE2 (10.42, Unicode 14) does not know, and one that it knows of the same general
// category and UTF-8 length; and U+180E, which its \s has although it is no white space.
struct StandIn {
  std::uint32_t first, last;
  std::uint32_t instead;
};

extern const std::span<const CodePointRange> marks;             // general categories M*
extern const std::span<const CodePointRange> punctuation;       // P*
extern const std::span<const CodePointRange> controls;          // C*, unassigned ones left out
extern const std::span<const MappedRange> lower_case;           // simple lower-case mappings
extern const std::span<const MappedRange> decomposition_bases;  // first character of the canonical decomposition (NFD),
                                                                // Hangul syllables left out
extern const std::span<const StandIn> stand_ins;

}  // namespace plumb::text
