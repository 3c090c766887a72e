// Package e2e tests the product as people run it: its programs as processes in
// network namespaces, its answers through the command line, its forwarding by
// frames that are sent and captured by the tests themselves. Root and Linux only.
// It holds nothing but tests; no test here links the code that it judges, except
// for the key digests that name rows in BPF maps.
package e2e
