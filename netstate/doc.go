// Package netstate is the mirrored state: what the kernel said, in the kernel's
// words. Kinds and keys of mirrored rows, the rows themselves (the kernel's own
// bytes), the state they add up to, and the decoders that read them. It imports
// nothing of ours, opens no socket and reads no clock.
//
// A row's value is the raw netlink message as the kernel wrote it. Decoding
// happens when somebody needs a field; attributes that today's decoder does not
// know are kept, shown, and make the row untrusted rather than misread.
package netstate
