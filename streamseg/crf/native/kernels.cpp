// Compiled once per instruction set, with its own flags, SS_WIDTH and SS_TABLE.
#include "kernels.h"

#include "blur.h"
#include "embed.h"
#include "finish.h"
#include "pass.h"
#include "rows.h"
#include "wave.h"

#define SS_TEXT_(x) #x
#define SS_TEXT(x) SS_TEXT_(x)

namespace ss {

const Kernels* SS_TABLE() {
  static const Kernels table = {SS_TEXT(SS_NAME), W,    embed,       pass, finish,           fold_norm,    blur_first,
                                blur,             wave, blur_scalar, mix,  rows_from_planes, peak_to_zero, planes_from_rows,
                                unary_rows};
  return &table;
}

}  // namespace ss
