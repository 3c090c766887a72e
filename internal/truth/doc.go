// Package truth holds the product against the kernel: a real namespace, the real
// shim, agent and software device in one process, random `ip` operations, and
// after each few of them the question whether every kind, as the product shows
// it, is what `ip -j` says, and whether the device forwards by nothing that the
// kernel does not have. It has tests only.
package truth
