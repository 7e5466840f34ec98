// One translation unit, because reading libtorch's headers is most of the work.
#include "store.cpp"
#include "group.cpp"
#include "differentiable.cpp"
#include "reducer.cpp"
