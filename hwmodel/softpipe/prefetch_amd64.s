#include "textflag.h"

// func prefetch(base unsafe.Pointer, offset *[256]uint32, n int)
TEXT ·prefetch(SB), NOSPLIT, $0-24
	MOVQ base+0(FP), AX
	MOVQ offset+8(FP), BX
	MOVQ n+16(FP), CX
	LEAQ (BX)(CX*4), CX

next:
	CMPQ BX, CX
	JGE  done
	MOVL (BX), DX
	PREFETCHT0 (AX)(DX*1)
	ADDQ $4, BX
	JMP  next

done:
	RET
