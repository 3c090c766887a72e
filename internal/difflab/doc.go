// Package difflab is the small differential lab: the same configuration and the
// same frames through a plain kernel router (veth) and through the device, and
// every frame that comes out compared, byte by byte, as a multiset of (port,
// bytes). The kernel is the oracle; refpipe and softpipe must agree with it and
// with each other.
//
// A case is a configuration in iproute2's words and a list of frames, each with
// what the device must do with it: forward it alone, trap it, or drop it. A kind
// of traffic without a passing case here is not forwarded by the product.
//
// Besides the hand-written cases there are random ones: TestRandom makes seeded
// configurations, changes and frames, and holds each frame's fate in both pipes
// against the kernel's. It also counts what the pipes trap that the kernel just
// forwards: docs/limits.md must allow the reason. A difference is shrunk to a
// scenario, which joins keptScenarios once its cause is removed.
//
// Only what the kernel itself leaves open is masked (design, "Equal means"): the
// IP identification of kernel-made ICMP errors and the flow label of kernel-made
// ICMPv6.
package difflab
