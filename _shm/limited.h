/* SPDX-License-Identifier: MIT */
/* For modules of the limited API (VALKKA_ABI3=1 in setup.py): their functions are in no traceback.

   That API has no other way to put them there than to run Python code for each, which is what Cython does. A signal's
   handler may run in it, and what that raises, a KeyboardInterrupt, is thrown away. It also takes longer than most of
   what raises here. Cython compiles that code first, and gives up if it cannot; nor could it run it. */
#ifdef Py_LIMITED_API
#undef Py_CompileString
#undef PyEval_EvalCode
#define Py_CompileString(...) NULL
#define PyEval_EvalCode(...) NULL
#endif
