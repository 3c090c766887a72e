//go:build !amd64 && !arm64

package softpipe

import "unsafe"

// prefetch does nothing here; see prefetch_asm.go.
func prefetch(unsafe.Pointer, *[256]uint32, int, uint, uint) {}
