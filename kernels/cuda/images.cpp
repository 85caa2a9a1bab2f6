// The fat binaries of the tiers, inside the library. JCA_CUDA_FOLDER is where the build puts them.
#include "launch.h"

// .nv_fatbin is the section in which cuobjdump looks.
#define JCA_CUDA_EMBED(tier)                   \
    asm(".section .nv_fatbin, \"a\"\n"         \
        ".balign 16\n"                         \
        "jca_cuda_" #tier                      \
        ":\n"                                  \
        ".incbin \"" JCA_CUDA_FOLDER "/" #tier \
        ".fatbin\"\n"                          \
        "jca_cuda_" #tier                      \
        "_end:\n"                              \
        ".previous\n");                        \
    extern "C" const char jca_cuda_##tier[], jca_cuda_##tier##_end[];

#define JCA_CUDA_TIER_NAMES(X) X(exact) X(tf32) X(bfloat16) X(float16)
JCA_CUDA_TIER_NAMES(JCA_CUDA_EMBED)

const void* jca_cuda_image(int tier, size_t* bytes) {
#define JCA_CUDA_ROW(tier) {jca_cuda_##tier, jca_cuda_##tier##_end},
    static const char* const images[JCA_CUDA_TIERS][2] = {JCA_CUDA_TIER_NAMES(JCA_CUDA_ROW)};
    const bool known = tier >= 0 && tier < JCA_CUDA_TIERS;
    *bytes = known ? size_t(images[tier][1] - images[tier][0]) : 0;
    return known ? images[tier][0] : nullptr;
}

const char* jca_cuda_build(void) {
    return JCA_CUDA_BUILD;
}
