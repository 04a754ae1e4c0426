// What metal-cpp takes from Apple's CoreFoundation, for scripts/check-metal alone: a Mac has the real one.
#pragma once

typedef double CFTimeInterval;
