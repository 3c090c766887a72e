package feedback

// CheckKey is appendUse without its result.
func CheckKey(key []byte) error { _, err := appendUse(nil, key); return err }
