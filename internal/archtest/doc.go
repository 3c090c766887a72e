// Package archtest holds the house rules as tests: who may import whom, how long
// a file may get, what a test may not do. It holds no code of the product.
package archtest
