// Package resolve is the one translator between the two vocabularies: it turns
// mirrored kernel rows (netstate) into what the device shall hold (hwmodel), and
// answers for every row whether it is in the device and why not.
//
// It is pure: no I/O, no goroutine, no clock. Changes mark what they touch;
// Next computes the touched entries anew, compares them with what the device
// holds and returns the difference as one make-before-break batch.
//
// Reading order: resolver.go (the whole), link.go (ports and interfaces),
// route.go (which row of a prefix wins), group.go (next hops), rule.go,
// setting.go (sysctls and unmirrored state), capacity.go (full tables),
// fate.go (answers), counter.go.
package resolve
