/* A fault injector for PKCS#11: the module REAL, but sessions, encryption and decryption block while the file HANGS exists.
   Compiled by custom_key_stores.rs. */
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_RV;
typedef unsigned long CK_ULONG;

/* CK_FUNCTION_LIST of PKCS#11 2.40: a version, then 68 functions in the standard's order. */
struct functions {
    unsigned char version[2];
    void *function[68];
};
enum { OPEN_SESSION = 12, ENCRYPT = 30, DECRYPT = 34 };

static struct functions list;
static void *real_open_session, *real_encrypt, *real_decrypt;

static void hold(void) {
    while (access(HANGS, F_OK) == 0) usleep(10000);
}

static CK_RV open_session(CK_ULONG slot, CK_ULONG flags, void *application, void *notify, CK_ULONG *session) {
    hold();
    return ((CK_RV (*)(CK_ULONG, CK_ULONG, void *, void *, CK_ULONG *))real_open_session)(slot, flags, application, notify, session);
}

typedef CK_RV (*crypt_function)(CK_ULONG, void *, CK_ULONG, void *, CK_ULONG *);

static CK_RV encrypt_data(CK_ULONG session, void *from, CK_ULONG length, void *to, CK_ULONG *to_length) {
    hold();
    return ((crypt_function)real_encrypt)(session, from, length, to, to_length);
}

static CK_RV decrypt_data(CK_ULONG session, void *from, CK_ULONG length, void *to, CK_ULONG *to_length) {
    hold();
    return ((crypt_function)real_decrypt)(session, from, length, to, to_length);
}

CK_RV C_GetFunctionList(struct functions **out) {
    void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(struct functions **) = library ? (CK_RV (*)(struct functions **))dlsym(library, "C_GetFunctionList") : 0;
    struct functions *real = 0;
    if (!get || get(&real) != 0) return 5; /* CKR_GENERAL_ERROR */
    memcpy(&list, real, sizeof list);
    real_open_session = list.function[OPEN_SESSION];
    real_encrypt = list.function[ENCRYPT];
    real_decrypt = list.function[DECRYPT];
    list.function[OPEN_SESSION] = (void *)open_session;
    list.function[ENCRYPT] = (void *)encrypt_data;
    list.function[DECRYPT] = (void *)decrypt_data;
    *out = &list;
    return 0;
}
