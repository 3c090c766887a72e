// Package demo is `antiphon sim demo`: a router and four hosts in network
// namespaces, an ordinary configuration typed with ip, real traffic, and an
// account of who forwarded what that does not take the product's word for it.
//
// Expected counts come from captures on the receiving hosts; expected fates from
// `ip -j` and the case table (docs/limits.md); counters are read from the BPF
// maps by bpftool. Anything that disagrees is printed and makes the demo fail.
//
// Reading order: demo.go (the account), network.go (namespaces and the
// configuration), flow.go (what is sent), wire.go (sender and captures),
// fates.go and maps.go (the oracles), memory.go (without root or user
// namespaces: no kernel, two pipes against each other).
package demo
