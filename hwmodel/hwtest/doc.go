// Package hwtest is the conformance suite of the device contract: what every
// hwmodel.Device and hwmodel.Pipe must do, one named subtest per table, key,
// action and reason; and Compare, which runs random tables and hostile frames
// through two pipes that must agree. A vendor's device is tested with it too. It
// knows hwmodel and nothing of any device.
package hwtest
