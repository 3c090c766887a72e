#include "textflag.h"

// func prefetch(base unsafe.Pointer, index *[256]uint32, n int, shift, size uint)
TEXT ·prefetch(SB), NOSPLIT, $0-40
	MOVD base+0(FP), R0
	MOVD index+8(FP), R1
	MOVD n+16(FP), R2
	MOVD shift+24(FP), R4
	MOVD size+32(FP), R5
	CBZ  R2, done

next:
	MOVWU.P 4(R1), R3
	LSR     R4, R3, R3
	MADD    R5, R0, R3, R3
	PRFM    (R3), PLDL1KEEP
	SUB     $1, R2
	CBNZ    R2, next

done:
	RET
