// Every kernel, in one translation unit a target.
#pragma once

#include "backends/gpu/kernels/dialect.h"
#include "backends/gpu/kernels/list.h"
#include "backends/gpu/kernels/params.h"
#include "backends/gpu/kernels/signatures.h"
// the kernels
#include "backends/gpu/kernels/attention.h"
#include "backends/gpu/kernels/elementwise.h"
#include "backends/gpu/kernels/embed.h"
#include "backends/gpu/kernels/experts.h"
#include "backends/gpu/kernels/linear.h"
#include "backends/gpu/kernels/norm.h"
#include "backends/gpu/kernels/rope.h"
