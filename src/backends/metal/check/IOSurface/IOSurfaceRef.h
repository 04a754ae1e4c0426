// What metal-cpp takes from Apple's IOSurface, for scripts/check-metal alone: a Mac has the real one.
#pragma once

typedef struct __IOSurface* IOSurfaceRef;
