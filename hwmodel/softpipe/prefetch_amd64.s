#include "textflag.h"

// func prefetch(base unsafe.Pointer, index *[256]uint32, n int, shift, size uint)
//
// Four at a time, up to three more than asked: still within index.
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
	MOVL  4(BX), R8
	MOVL  8(BX), R9
	MOVL  12(BX), R10
	SHRL  CX, DX
	SHRL  CX, R8
	SHRL  CX, R9
	SHRL  CX, R10
	IMULQ SI, DX
	IMULQ SI, R8
	IMULQ SI, R9
	IMULQ SI, R10
	PREFETCHT0 (AX)(DX*1)
	PREFETCHT0 (AX)(R8*1)
	PREFETCHT0 (AX)(R9*1)
	PREFETCHT0 (AX)(R10*1)
	ADDQ  $16, BX
	JMP   next

done:
	RET
