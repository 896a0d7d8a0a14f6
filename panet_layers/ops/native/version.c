/* The number of the sources that a library was compiled from: build.py sets it, library.py compares it. */

__attribute__((visibility("default"))) int panet_layers_abi(void) { return PANET_LAYERS_ABI; }
