// The part of Apple's IOSurface that metal-cpp uses. For scripts/check-metal only; a Mac has the real header.
#pragma once

typedef struct __IOSurface* IOSurfaceRef;
