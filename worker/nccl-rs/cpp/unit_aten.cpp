// One translation unit, because reading libtorch's headers is most of the work.
#include "ops.cpp"
#include "qlinear.cpp"
#include "backend.cpp"
#include "autograd.cpp"
#include "storage.cpp"
#include "fused.cpp"
#include "head.cpp"
#include "frozen.cpp"
