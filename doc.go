// Package paceline is the module's root. It holds no code, only the test that
// keeps the rules of the house: which package may import which, which
// third-party module belongs in which room, and what a folder may be called.
package paceline
