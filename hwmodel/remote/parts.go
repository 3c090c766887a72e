package remote

import (
	"slices"

	"antiphon/hwmodel"
)

// Limits of what travels. A part stays far below MaxMessage: a route is some
// 50 bytes, a group with all its legs some 4 kB. Only a rule list cannot be
// divided: MaxMessage has room for some 200,000 rules.
const (
	// MaxMessage bounds one protobuf message in bytes.
	MaxMessage = 16 << 20
	// MaxBatch bounds the entries and keys of one batch: what a server is ready
	// to hold before it applies.
	MaxBatch   = 8 << 20
	partRows   = 4096
	partGroups = 64
	// partSmall is the size up to which a set of entries travels whole.
	partSmall = 64
)

// splitEntries calls yield with parts of e that add up to it, until it fails.
func splitEntries(e *hwmodel.Entries, yield func(*hwmodel.Entries) error) error {
	if e.Len() == 0 {
		return nil
	}
	if e.Len() <= partSmall && len(e.Rules) == 0 {
		return yield(e)
	}
	if e.Settings != nil {
		if err := yield(&hwmodel.Entries{Settings: e.Settings}); err != nil {
			return err
		}
	}
	return firstError(
		func() error {
			return split(e.Interfaces, partRows, func(s []hwmodel.Interface) error { return yield(&hwmodel.Entries{Interfaces: s}) })
		},
		func() error {
			return split(e.Neighbors, partRows, func(s []hwmodel.Neighbor) error { return yield(&hwmodel.Entries{Neighbors: s}) })
		},
		func() error {
			return split(e.NextHops, partRows, func(s []hwmodel.NextHop) error { return yield(&hwmodel.Entries{NextHops: s}) })
		},
		func() error {
			return split(e.Groups, partGroups, func(s []hwmodel.Group) error { return yield(&hwmodel.Entries{Groups: s}) })
		},
		func() error {
			return split(e.Routes, partRows, func(s []hwmodel.Route) error { return yield(&hwmodel.Entries{Routes: s}) })
		},
		func() error {
			return split(e.Rules, 1, func(s []hwmodel.Rules) error { return yield(&hwmodel.Entries{Rules: s}) })
		},
		func() error {
			return split(e.Own, partRows, func(s []hwmodel.OwnAddress) error { return yield(&hwmodel.Entries{Own: s}) })
		},
	)
}

// splitKeys is splitEntries for keys.
func splitKeys(k *hwmodel.Keys, yield func(*hwmodel.Keys) error) error {
	if k.Len() == 0 {
		return nil
	}
	if k.Len() <= partSmall {
		return yield(k)
	}
	return firstError(
		func() error {
			return split(k.Interfaces, partRows, func(s []hwmodel.InterfaceID) error { return yield(&hwmodel.Keys{Interfaces: s}) })
		},
		func() error {
			return split(k.Neighbors, partRows, func(s []hwmodel.NeighborKey) error { return yield(&hwmodel.Keys{Neighbors: s}) })
		},
		func() error {
			return split(k.NextHops, partRows, func(s []hwmodel.NextHopID) error { return yield(&hwmodel.Keys{NextHops: s}) })
		},
		func() error {
			return split(k.Groups, partRows, func(s []hwmodel.GroupID) error { return yield(&hwmodel.Keys{Groups: s}) })
		},
		func() error {
			return split(k.Routes, partRows, func(s []hwmodel.RouteKey) error { return yield(&hwmodel.Keys{Routes: s}) })
		},
		func() error {
			return split(k.Own, partRows, func(s []hwmodel.OwnAddress) error { return yield(&hwmodel.Keys{Own: s}) })
		},
	)
}

func split[T any](all []T, size int, yield func([]T) error) error {
	for part := range slices.Chunk(all, size) {
		if err := yield(part); err != nil {
			return err
		}
	}
	return nil
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// addEntries adds a part to a whole.
func addEntries(to, part *hwmodel.Entries) {
	if part.Settings != nil {
		to.Settings = part.Settings
	}
	to.Interfaces = append(to.Interfaces, part.Interfaces...)
	to.Neighbors = append(to.Neighbors, part.Neighbors...)
	to.NextHops = append(to.NextHops, part.NextHops...)
	to.Groups = append(to.Groups, part.Groups...)
	to.Routes = append(to.Routes, part.Routes...)
	to.Rules = append(to.Rules, part.Rules...)
	to.Own = append(to.Own, part.Own...)
}

// addKeys adds a part to a whole.
func addKeys(to, part *hwmodel.Keys) {
	to.Interfaces = append(to.Interfaces, part.Interfaces...)
	to.Neighbors = append(to.Neighbors, part.Neighbors...)
	to.NextHops = append(to.NextHops, part.NextHops...)
	to.Groups = append(to.Groups, part.Groups...)
	to.Routes = append(to.Routes, part.Routes...)
	to.Own = append(to.Own, part.Own...)
}
