#include "textflag.h"

// func prefetch(base unsafe.Pointer, index *[256]uint32, n int, shift, size uint)
TEXT ·prefetch(SB), NOSPLIT, $0-40
	MOVQ base+0(FP), AX
	MOVQ index+8(FP), BX
	MOVQ n+16(FP), DI
	MOVQ shift+24(FP), CX
	MOVQ size+32(FP), SI
	LEAQ (BX)(DI*4), DI

next:
	CMPQ  BX, DI
	JGE   done
	MOVL  (BX), DX
	SHRL  CX, DX
	IMULQ SI, DX
	PREFETCHT0 (AX)(DX*1)
	ADDQ  $4, BX
	JMP   next

done:
	RET
