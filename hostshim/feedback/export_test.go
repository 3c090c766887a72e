package feedback

// CheckKey is appendGet without its result.
func CheckKey(key []byte) error { _, err := appendGet(nil, key); return err }
