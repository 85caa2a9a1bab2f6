// The schemas of the ops, for a program without Python: there the library itself defines them. They
// are those of jca_fast/ops/library.py, which a test compares.
#pragma once

namespace jca {
namespace {

struct Schema {
    const char *forward, *backward;
};

// Of the op with this argument block; binding/<op>.h gives the value.
template <class Block>
constexpr Schema schema_of = {nullptr, nullptr};

}  // namespace
}  // namespace jca
