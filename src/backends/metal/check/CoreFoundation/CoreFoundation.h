// The part of Apple's CoreFoundation that metal-cpp uses. For scripts/check-metal only; a Mac has the real header.
#pragma once

typedef double CFTimeInterval;
